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
    pipeline.add_argument("--evaluation-report", type=Path, help="evaluation report to write")
    pipeline.add_argument("--manifest", type=Path, help="manifest to write")
    files = result.add_argument_group("two answer files in LLaVA's format, made anywhere")
    files.add_argument("--blip2_results", type=Path, help="answers of the arm in question")
    files.add_argument("--baseline_results", type=Path, help="answers of the reference")
    files.add_argument("--annotations", type=Path, help="the benchmark's annotations")
    files.add_argument("--kind", default="textvqa", help="of benchmark, such as gqa")
    files.add_argument(
        "--questions",
        type=Path,
        help="question file, for POPE, and for TextVQA's form where ids are not those of pictures",
    )
    files.add_argument("--output", type=Path, help="evaluation report to write")
    result.add_argument("--out", type=Path, help="comparison document to write")
    result.add_argument("--lmms-eval", type=Path, help="folder for results in lmms-eval's form")
    result.add_argument("--settings", default="{}", help="compare settings, JSON or a path")
    return result


def main(args: argparse.Namespace) -> None:
    """Compare."""
    from recap.compare.run import run_answer_files, run_experiment
    from recap.compare.standalone import AnswerFiles

    settings, folder = args.settings, args.lmms_eval
    if args.inputs:
        report, manifest = args.evaluation_report, args.manifest
        run_experiment(args.inputs, settings, args.out, report, manifest, folder)
        return
    named = (args.blip2_results, args.baseline_results, args.annotations)
    files = AnswerFiles(*named, args.kind, args.questions) if all(named) else None
    run_answer_files(files, settings, args.output, args.out, folder)


if __name__ == "__main__":
    run_cli(main, parser())
