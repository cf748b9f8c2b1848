"""Score merged answers against a benchmark's annotations."""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        'score_answers.py --benchmark textvqa_ocr --protocol \'{"kind": "textvqa", '
        '"ocr": true}\' --answers merge.jsonl --annotations TextVQA_0.5.1_val.json '
        "--out score.json --per-question scores.jsonl",
    )
    result.add_argument("--benchmark", required=True, help="name of the benchmark row")
    result.add_argument("--protocol", required=True, help="benchmark protocol, JSON or a path")
    result.add_argument("--answers", type=Path, required=True, help="merged answer file")
    result.add_argument(
        "--annotations",
        type=Path,
        nargs="+",
        required=True,
        help="annotation file, folder, or the files of one folder",
    )
    result.add_argument("--questions", type=Path, help="question file, where scoring needs it")
    result.add_argument("--real-answers", type=Path, help="of a control: the model's real answers")
    result.add_argument("--out", type=Path, required=True, help="score document to write")
    result.add_argument("--per-question", type=Path, required=True, help="score rows to write")
    return result


def main(args: argparse.Namespace) -> None:
    """Score."""
    from recap.evaluate.protocol import BenchmarkProtocol
    from recap.evaluate.score import score_answers

    protocol = parse_settings(BenchmarkProtocol, args.protocol, "--protocol")
    score_answers(
        args.benchmark,
        protocol,
        args.answers,
        args.annotations[0] if len(args.annotations) == 1 else args.annotations[0].parent,
        args.out,
        args.per_question,
        args.questions,
        args.real_answers,
    )


if __name__ == "__main__":
    run_cli(main, parser())
