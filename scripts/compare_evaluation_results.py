"""Compare arms: verdicts with intervals, from per-question scores or two answer files."""

import argparse
from pathlib import Path

from recap.cli import make_parser, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        "compare_evaluation_results.py --blip2_results enhanced.jsonl --baseline_results "
        "baseline.jsonl --annotations TextVQA_0.5.1_val.json --output report.json",
    )
    pipeline = result.add_argument_group("an experiment of the pipeline")
    pipeline.add_argument("--inputs", type=Path, help="comparison inputs, JSON")
    pipeline.add_argument("--out", type=Path, help="comparison document to write")
    pipeline.add_argument("--evaluation-report", type=Path, help="evaluation report to write")
    pipeline.add_argument("--manifest", type=Path, help="manifest to write")
    files = result.add_argument_group("two answer files in LLaVA's format, made anywhere")
    files.add_argument("--blip2_results", type=Path, help="answers of the arm in question")
    files.add_argument("--baseline_results", type=Path, help="answers of the reference")
    files.add_argument("--annotations", type=Path, help="TextVQA annotations")
    files.add_argument("--output", type=Path, help="evaluation report to write")
    result.add_argument("--settings", default="{}", help="compare settings, JSON or a path")
    return result


def main(args: argparse.Namespace) -> None:
    """Compare."""
    from recap.compare.run import run_answer_files, run_experiment

    if args.inputs:
        run_experiment(args.inputs, args.settings, args.out, args.evaluation_report, args.manifest)
    else:
        run_answer_files(
            args.blip2_results,
            args.baseline_results,
            args.annotations,
            args.settings,
            args.output,
        )


if __name__ == "__main__":
    run_cli(main, parser())
