"""Gather every record that an arm lost, and draw its funnel."""

import argparse

from recap.cli import make_parser, run_cli
from recap.compare.funnel_figure import draw_funnel
from recap.curate.trace import gather_funnel


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Put id, operator, statistic, value and bound of every dropped record into one table.",
        "gather_funnel.py --funnel funnel.json --rejects rejects.jsonl --pre-drops 0.jsonl "
        "--shards 0.jsonl --merged merged.jsonl --out funnel.parquet --svg funnel.svg "
        "--png funnel.png",
    )
    cli.add_argument("--funnel", required=True, help="funnel.json of the arm")
    cli.add_argument("--rejects", required=True, help="lines that the validation refused")
    cli.add_argument("--pre-drops", nargs="*", default=[], help="drops before captioning")
    cli.add_argument("--post-drops", nargs="*", default=[], help="drops after captioning")
    cli.add_argument("--shards", required=True, nargs="+", help="records after all filters")
    cli.add_argument("--merged", required=True, help="records after matching and budget")
    cli.add_argument("--match-ids", help="merged records of the arm whose ids are kept")
    cli.add_argument("--held-out", help="ids that no arm trains on")
    cli.add_argument("--out", required=True, help="the table as Parquet")
    cli.add_argument("--svg", required=True, help="the figure as SVG")
    cli.add_argument("--png", required=True, help="the figure as PNG")
    return cli


def main(args: argparse.Namespace) -> None:
    """Gather and draw."""
    gather_funnel(
        args.funnel,
        rejects=args.rejects,
        pre_drops=args.pre_drops,
        post_drops=args.post_drops,
        shards=args.shards,
        merged=args.merged,
        match_ids=args.match_ids,
        held_out=args.held_out,
        out=args.out,
    )
    draw_funnel(args.funnel, svg=args.svg, png=args.png)


if __name__ == "__main__":
    run_cli(main, parser())
