"""Write the report page, the Markdown summaries and the verdict of an experiment."""

import argparse
from pathlib import Path

from recap.cli import make_parser, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        "build_report.py --inputs comparison_inputs.json --comparison comparison.json "
        "--costs costs.json --out report.html --training-analysis training_comparison_analysis.md "
        "--summary final_project_summary.md",
    )
    result.add_argument("--inputs", type=Path, required=True, help="comparison inputs, JSON")
    result.add_argument("--comparison", type=Path, required=True, help="comparison document")
    result.add_argument("--settings", default="{}", help="report settings, JSON or a path")
    result.add_argument(
        "--gallery", type=Path, nargs="*", default=[], help="caption gallery, JSONL"
    )
    result.add_argument("--image-root", type=Path, help="folder of the gallery's images")
    result.add_argument("--out", type=Path, required=True, help="HTML page to write")
    result.add_argument("--training-analysis", type=Path, required=True, help="Markdown to write")
    result.add_argument("--summary", type=Path, required=True, help="Markdown to write")
    result.add_argument("--costs", type=Path, help="what account_costs.py wrote, JSON")
    result.add_argument("--verdict", type=Path, help="one-line text file to write")
    result.add_argument("--run-card", type=Path, help="what was found and how, JSON to write")
    result.add_argument("--figures", type=Path, help="folder for every figure as SVG and PNG")
    result.add_argument("--tables", type=Path, help="folder for every table as CSV")
    result.add_argument("--manifest", type=Path, help="manifest to write")
    return result


def main(args: argparse.Namespace) -> None:
    """Build the report."""
    from recap.compare.report import ReportRequest, build_report

    values = vars(args) | {"gallery": tuple(args.gallery)}
    build_report(ReportRequest(**values))


if __name__ == "__main__":
    run_cli(main, parser())
