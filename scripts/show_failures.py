"""Say which jobs of the last run failed, why, and what to do."""

import argparse
import sys
from pathlib import Path

from recap.cli import make_parser, run_cli
from recap.cluster.digest import failure_digest
from recap.cluster.records import read_failures


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(__doc__ or "", "show_failures.py results/demo/failures.json")
    p.add_argument("failures", type=Path, help="the list that a run leaves")
    return p


def main(args: argparse.Namespace) -> None:
    """Print the digest."""
    failures = read_failures(args.failures)
    sys.stdout.write(failure_digest(failures) or "no job of the last run failed\n")


if __name__ == "__main__":
    run_cli(main, parser())
