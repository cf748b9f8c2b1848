"""Compute a shard's hashes for one of Data-Juicer's deduplicators."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.hashes import hash_shard
from recap.curate.recipe import load_operators, single


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Hash every record; which ones go is decided over all shards, in decide_duplicates.py.",
        "hash_shard.py --records shard.jsonl --image-root corpus "
        "--operators '[{\"document_deduplicator\": {}}]' --out hashes.parquet --perf perf.json",
    )
    cli.add_argument("--records", required=True, help="the records")
    cli.add_argument("--image-root", required=True, help="folder image paths are relative to")
    cli.add_argument("--operators", required=True, help="JSON list, or a path: one deduplicator")
    cli.add_argument("--threads", type=int, default=1, help="pictures decoded at once")
    cli.add_argument("--out", required=True, help="ids and hashes as Parquet")
    cli.add_argument("--perf", required=True, help="throughput and memory as JSON")
    return cli


def main(args: argparse.Namespace) -> None:
    """Hash."""
    hash_shard(
        args.records,
        image_root=args.image_root,
        operator=single(load_operators(args.operators, "deduplicator")),
        threads=args.threads,
        out=args.out,
        perf=args.perf,
    )


if __name__ == "__main__":
    run_cli(main, parser())
