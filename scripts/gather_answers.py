"""Merge the answers of all shards; every question exactly once, in file order."""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        'gather_answers.py --questions q.jsonl --protocol \'{"kind": "textvqa", "ocr": true}\' '
        "--shards answers/2_0.jsonl answers/2_1.jsonl --out merge.jsonl --report gather.json",
    )
    result.add_argument("--questions", type=Path, required=True, help="the whole question file")
    result.add_argument("--expected-questions", type=int, help="how many the file must hold")
    result.add_argument("--protocol", required=True, help="benchmark protocol, JSON or a path")
    result.add_argument("--shards", type=Path, nargs="+", required=True, help="answer files")
    result.add_argument("--out", type=Path, required=True, help="merged answer file to write")
    result.add_argument("--report", type=Path, required=True, help="counts and hashes to write")
    return result


def main(args: argparse.Namespace) -> None:
    """Merge."""
    from recap.evaluate.gather import gather_answers
    from recap.evaluate.protocol import BenchmarkProtocol

    protocol = parse_settings(BenchmarkProtocol, args.protocol, "--protocol")
    gather_answers(
        args.questions, protocol, args.shards, args.out, args.report, args.expected_questions
    )


if __name__ == "__main__":
    run_cli(main, parser())
