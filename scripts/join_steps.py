"""Put the steps of a recipe together for one shard."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.joining import join_steps


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Join the counts and drops of a recipe's steps; what the last one left are the records.",
        "join_steps.py --records last.jsonl --step-counts 0.json 1.json "
        "--step-drops 0.jsonl 1.jsonl --out kept.jsonl --drops drops.jsonl --counts counts.json",
    )
    cli.add_argument("--records", required=True, help="what the last step left")
    cli.add_argument("--step-counts", required=True, nargs="+", help="counts of every step")
    cli.add_argument("--step-drops", nargs="*", default=[], help="drops of the steps that drop")
    cli.add_argument("--out", required=True, help="surviving records")
    cli.add_argument("--drops", required=True, help="drops of all steps")
    cli.add_argument("--counts", required=True, help="records in and out, an operator, as JSON")
    return cli


def main(args: argparse.Namespace) -> None:
    """Join."""
    join_steps(
        args.records,
        step_counts=args.step_counts,
        step_drops=args.step_drops,
        kept=args.out,
        drops=args.drops,
        counts=args.counts,
    )


if __name__ == "__main__":
    run_cli(main, parser())
