"""Decide over all shards which records repeat an earlier one."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.duplicates import decide_duplicates
from recap.curate.recipe import load_operators, single


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Run a deduplicator on the hashes of a whole corpus; the first of a group stays.",
        "decide_duplicates.py --hashes 00000.parquet 00001.parquet "
        "--operators '[{\"document_deduplicator\": {}}]' --out duplicates.parquet "
        "--report duplicates.json",
    )
    cli.add_argument("--hashes", required=True, nargs="+", help="hashes, in shard order")
    cli.add_argument("--operators", required=True, help="JSON list, or a path: one deduplicator")
    cli.add_argument("--out", required=True, help="ids to drop and what they repeat, as Parquet")
    cli.add_argument("--report", required=True, help="records, duplicates and groups as JSON")
    return cli


def main(args: argparse.Namespace) -> None:
    """Decide."""
    decide_duplicates(
        args.hashes,
        operator=single(load_operators(args.operators, "deduplicator")),
        out=args.out,
        report=args.report,
    )


if __name__ == "__main__":
    run_cli(main, parser())
