"""Refuse an evaluation that does not give a released model its published score."""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        "check_positive_control.py --control control.json --score score.json "
        "--scores scores.jsonl --out agreement.json",
    )
    result.add_argument("--control", required=True, help="what was published, JSON or a path")
    result.add_argument("--score", type=Path, required=True, help="score document of its answers")
    result.add_argument("--scores", type=Path, required=True, help="their scores, one a question")
    result.add_argument("--settings", default="{}", help="compare settings, JSON or a path")
    result.add_argument("--out", type=Path, required=True, help="report to write")
    return result


def main(args: argparse.Namespace) -> None:
    """Check."""
    from recap.compare.inputs import PositiveControlInputs
    from recap.compare.positive import check_positive_control
    from recap.settings import CompareSettings

    control = parse_settings(PositiveControlInputs, args.control, "--control")
    settings = parse_settings(CompareSettings, args.settings, "--settings")
    check_positive_control(control, args.score, args.scores, settings, args.out)


if __name__ == "__main__":
    run_cli(main, parser())
