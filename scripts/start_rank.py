"""Become one rank of a run that `srun` started: set what torch needs, then run the script."""

import argparse
import os
import sys

from recap.cli import make_parser, run_cli
from recap.train.rendezvous import rank_environment


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    cli = make_parser(
        __doc__ or "",
        "srun --nodes=2 --ntasks-per-node=4 --gres=gpu:4 python scripts/start_rank.py "
        "scripts/train_stage.py --stage pretrain ...",
    )
    cli.add_argument("script", help="Python script of the rank")
    cli.add_argument("arguments", nargs=argparse.REMAINDER, help="of the script, as they are")
    return cli


def main(args: argparse.Namespace) -> None:
    """Turn this process into the rank, so that signals reach it without a middleman."""
    environment = os.environ | rank_environment(os.environ)
    command = [sys.executable, args.script, *args.arguments]
    os.execve(sys.executable, command, environment)  # noqa: S606


if __name__ == "__main__":
    run_cli(main, parser())
