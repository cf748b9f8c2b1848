"""Answer a benchmark without a model: the most frequent answer of the instruction data."""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        'answer_by_majority.py --questions q.jsonl --protocol \'{"kind": "textvqa", "ocr": true}\' '
        "--instructions sft.json --out merge.jsonl",
    )
    result.add_argument("--questions", type=Path, required=True, help="the whole question file")
    result.add_argument("--protocol", required=True, help="benchmark protocol, JSON or a path")
    result.add_argument("--instructions", type=Path, required=True, help="stage-2 LLaVA JSON")
    result.add_argument("--out", type=Path, required=True, help="answer file to write")
    return result


def main(args: argparse.Namespace) -> None:
    """Answer."""
    from recap.evaluate.majority import answer_by_majority
    from recap.evaluate.protocol import BenchmarkProtocol

    protocol = parse_settings(BenchmarkProtocol, args.protocol, "--protocol")
    answer_by_majority(args.questions, protocol, args.instructions, args.out)


if __name__ == "__main__":
    run_cli(main, parser())
