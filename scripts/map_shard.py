"""Apply a recipe's mappers to a shard with Data-Juicer's own operators."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.mapping import map_shard
from recap.curate.recipe import load_operators


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Rewrite a shard's texts; no record is added or lost, every change is on record.",
        "map_shard.py --records shard.jsonl --image-root corpus "
        "--operators '[{\"fix_unicode_mapper\": {}}]' --out mapped.jsonl "
        "--changes changes.jsonl --counts counts.json --perf perf.json",
    )
    cli.add_argument("--records", required=True, help="the records before")
    cli.add_argument("--image-root", required=True, help="folder image paths are relative to")
    cli.add_argument("--operators", required=True, help="JSON list, or a path: mappers in order")
    cli.add_argument("--out", required=True, help="the records after")
    cli.add_argument("--changes", required=True, help="id, operator, text before and after")
    cli.add_argument("--counts", required=True, help="records and changes, an operator, as JSON")
    cli.add_argument("--perf", required=True, help="throughput and memory as JSON")
    return cli


def main(args: argparse.Namespace) -> None:
    """Map."""
    map_shard(
        args.records,
        image_root=args.image_root,
        operators=load_operators(args.operators, "mapper"),
        out=args.out,
        changes=args.changes,
        counts=args.counts,
        perf=args.perf,
    )


if __name__ == "__main__":
    run_cli(main, parser())
