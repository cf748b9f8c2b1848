"""Apply a recipe's thresholds to the stored statistics of a shard."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.recipe import load_operators
from recap.curate.select import select_shard


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Keep the records that pass every operator, and say why the others do not.",
        "select_shard.py --records shard.jsonl --stats stats.parquet "
        '--operators \'[{"text_length_filter": {"max_len": 200}}]\' '
        "--out kept.jsonl --drops drops.jsonl --counts counts.json",
    )
    cli.add_argument("--records", required=True, help="the records that were measured")
    cli.add_argument("--stats", required=True, help="their statistics, from measure_shard.py")
    cli.add_argument(
        "--operators", required=True, help="JSON list, or a path: operators with thresholds"
    )
    cli.add_argument("--out", required=True, help="surviving records")
    cli.add_argument("--drops", required=True, help="id, operator, statistic, value, bound")
    cli.add_argument("--counts", required=True, help="records in and out, an operator, as JSON")
    return cli


def main(args: argparse.Namespace) -> None:
    """Select."""
    select_shard(
        args.records,
        stats=args.stats,
        operators=load_operators(args.operators),
        kept=args.out,
        drops=args.drops,
        counts=args.counts,
    )


if __name__ == "__main__":
    run_cli(main, parser())
