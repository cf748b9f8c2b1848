"""Merge an arm's shards, match another arm's ids, and account for every record."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.merge import merge_arm


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Concatenate shards in order; the funnel must add up from raw line to sample.",
        "merge_arm.py --arm baseline --shards 00000.jsonl 00001.jsonl --out merged.jsonl "
        "--funnel funnel.json --validate-report validate.json --pre-counts 0.json 1.json "
        "--manifest manifest.json",
    )
    cli.add_argument("--arm", required=True, help="the arm's name")
    cli.add_argument("--shards", required=True, nargs="+", help="its text files, in shard order")
    cli.add_argument("--match-ids", help="merged records of the arm whose ids are kept")
    cli.add_argument("--max-records", type=int, help="record budget, sampled by id")
    cli.add_argument("--max-records-of", help="merged records whose number is the budget")
    cli.add_argument("--held-out", help="ids that are left out, of hold_out.py")
    cli.add_argument("--seed", type=int, default=0, help="seed of the budget")
    cli.add_argument("--out", required=True, help="merged records")
    cli.add_argument("--funnel", required=True, help="counts of every stage as JSON")
    cli.add_argument("--validate-report", required=True, help="report of validate_corpus.py")
    cli.add_argument("--pre-counts", nargs="*", default=[], help="counts before captioning")
    cli.add_argument("--post-counts", nargs="*", default=[], help="counts after captioning")
    cli.add_argument("--manifest", required=True, help="manifest to write")
    return cli


def main(args: argparse.Namespace) -> None:
    """Merge."""
    merge_arm(
        args.arm,
        args.shards,
        out=args.out,
        funnel=args.funnel,
        manifest=args.manifest,
        validate_report=args.validate_report,
        pre_counts=args.pre_counts,
        post_counts=args.post_counts,
        match_ids=args.match_ids,
        max_records=args.max_records,
        max_records_of=args.max_records_of,
        held_out=args.held_out,
        seed=args.seed,
    )


if __name__ == "__main__":
    run_cli(main, parser())
