"""Run a command on GPUs that no other job of this machine has."""

import argparse
import os

from recap.cli import make_parser, run_cli
from recap.leases import lease_gpus


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    cli = make_parser(
        __doc__ or "", "lease_gpus.py 1 python scripts/caption_shard.py --records shard.jsonl ..."
    )
    cli.add_argument("gpus", type=int, help="how many; 0 runs the command as it is")
    cli.add_argument("command", nargs=argparse.REMAINDER, help="with its arguments")
    return cli


def main(args: argparse.Namespace) -> None:
    """Turn this process into the command, so that signals reach it without a middleman."""
    environment = os.environ | lease_gpus(args.gpus, os.environ)
    os.execvpe(args.command[0], args.command, environment)  # noqa: S606


if __name__ == "__main__":
    run_cli(main, parser())
