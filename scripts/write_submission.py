"""Write merged answers in the form that a benchmark's server or official script reads."""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        'write_submission.py --protocol \'{"kind": "mmbench"}\' --answers merge.jsonl '
        "--annotations mmbench_dev_20230712.tsv --out submission.xlsx",
    )
    result.add_argument("--protocol", required=True, help="benchmark protocol, JSON or a path")
    result.add_argument("--answers", type=Path, required=True, help="merged answer file")
    result.add_argument(
        "--annotations", type=Path, required=True, help="file that says what an upload holds"
    )
    result.add_argument("--out", type=Path, required=True, help="file to write")
    return result


def main(args: argparse.Namespace) -> None:
    """Write."""
    from recap.evaluate.protocol import BenchmarkProtocol
    from recap.evaluate.submission import write_submission

    protocol = parse_settings(BenchmarkProtocol, args.protocol, "--protocol")
    write_submission(protocol, args.answers, args.annotations, args.out)


if __name__ == "__main__":
    run_cli(main, parser())
