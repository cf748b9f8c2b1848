"""Take a corpus's duplicates out of one shard."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.duplicates import drop_duplicates
from recap.curate.recipe import load_operators, single


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Keep a shard's records that repeat no earlier one, and name what the others repeat.",
        "drop_duplicates.py --records shard.jsonl --duplicates duplicates.parquet "
        "--operators '[{\"document_deduplicator\": {}}]' --out kept.jsonl --drops drops.jsonl "
        "--counts counts.json",
    )
    cli.add_argument("--records", required=True, help="the records that were hashed")
    cli.add_argument("--duplicates", required=True, help="from decide_duplicates.py")
    cli.add_argument("--operators", required=True, help="JSON list, or a path: one deduplicator")
    cli.add_argument("--out", required=True, help="surviving records")
    cli.add_argument("--drops", required=True, help="id, shared hash, id that it repeats")
    cli.add_argument("--counts", required=True, help="records in and out as JSON")
    return cli


def main(args: argparse.Namespace) -> None:
    """Drop."""
    drop_duplicates(
        args.records,
        duplicates=args.duplicates,
        operator=single(load_operators(args.operators, "deduplicator")),
        kept=args.out,
        drops=args.drops,
        counts=args.counts,
    )


if __name__ == "__main__":
    run_cli(main, parser())
