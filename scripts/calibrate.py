"""Measure whether the comparison's verdict keeps its promises.

Without --real, experiments with a known truth are simulated. With --real,
runs of one arm that differ by their seed alone are compared with each other.
"""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        "calibrate.py --results results/demo --replicates 1000 "
        "--out results/calibration/simulated.json --page docs/calibration.md",
    )
    result.add_argument("--real", type=Path, help="results/EXPERIMENT with 10 or more A/A runs")
    result.add_argument("--results", type=Path, help="results/EXPERIMENT to resample questions of")
    result.add_argument("--benchmark", help="benchmark to resample; the first one by default")
    result.add_argument("--replicates", type=int, default=1000, help="a design and effect")
    result.add_argument("--seed", type=int, default=2024, help="of everything random")
    result.add_argument("--jobs", type=int, default=2, help="processes; changes no result")
    result.add_argument("--settings", default="{}", help="compare settings of --real, JSON or path")
    result.add_argument("--out", type=Path, required=True, help="JSON to write")
    result.add_argument("--page", type=Path, required=True, help="Markdown file with marks to fill")
    return result


def main(args: argparse.Namespace) -> None:
    """Calibrate."""
    from recap.compare.calibration import Plan
    from recap.compare.calibration_run import run_real, run_simulated
    from recap.settings import CompareSettings

    if args.real:
        settings = parse_settings(CompareSettings, args.settings)
        run_real(args.real, settings, args.out, args.page)
        return
    plan = Plan(replicates=args.replicates, seed=args.seed)
    run_simulated(args.results, args.benchmark, plan, args.jobs, args.out, args.page)


if __name__ == "__main__":
    run_cli(main, parser())
