"""Write one table over all experiments, from the run cards beside their reports."""

import argparse
import logging
from pathlib import Path

from recap.cli import make_parser, run_cli

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "", "build_leaderboard.py --results results --out results/leaderboard.tsv"
    )
    result.add_argument("--results", type=Path, required=True, help="folder of the experiments")
    result.add_argument("--out", type=Path, required=True, help="table to write")
    return result


def main(args: argparse.Namespace) -> None:
    """Build the table."""
    from recap.compare.leaderboard import build_leaderboard

    logger.info("%s: %d rows", args.out, build_leaderboard(args.results, args.out))


if __name__ == "__main__":
    run_cli(main, parser())
