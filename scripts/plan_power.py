"""Say how many seeds and questions an effect needs, from a pilot experiment."""

import argparse
import logging
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(__doc__ or "", "plan_power.py --pilot results/demo --effect 2")
    result.add_argument("--pilot", type=Path, required=True, help="results/EXPERIMENT")
    result.add_argument("--effect", type=float, required=True, help="true difference, in points")
    result.add_argument("--benchmark", help="the first one by default")
    result.add_argument("--settings", default="{}", help="compare settings, JSON or a path")
    result.add_argument("--out", type=Path, help="JSON to write, with the whole table")
    return result


def main(args: argparse.Namespace) -> None:
    """Plan."""
    from recap.compare.power import describe, plan_power
    from recap.errors import RecapError
    from recap.io import write_json
    from recap.settings import CompareSettings

    if not args.effect > 0:
        raise RecapError(f"--effect {args.effect:g}: give a difference above 0 points")
    settings = parse_settings(CompareSettings, args.settings)
    plan = plan_power(args.pilot, args.effect, args.benchmark, settings)
    if args.out:
        write_json(args.out, plan)
    for line in describe(plan):
        logger.info("%s", line)


if __name__ == "__main__":
    run_cli(main, parser())
