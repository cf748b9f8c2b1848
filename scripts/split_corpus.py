"""Cut a validated corpus into contiguous, balanced shards."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.split import split_corpus


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Write 00000.jsonl, 00001.jsonl, ... whose concatenation is the input.",
        "split_corpus.py --records validated.jsonl --count 3 --out-dir shards",
    )
    cli.add_argument("--records", required=True, help="validated records")
    cli.add_argument("--count", required=True, type=int, help="number of shards")
    cli.add_argument("--out-dir", required=True, help="folder of the shards")
    return cli


def main(args: argparse.Namespace) -> None:
    """Split."""
    split_corpus(args.records, args.count, args.out_dir)


if __name__ == "__main__":
    run_cli(main, parser())
