"""Compute the statistics of a shard with Data-Juicer's own operators."""

import argparse
from typing import Any

from recap.cli import make_parser, parse_settings, run_cli
from recap.curate.measure import measure_shard
from recap.curate.recipe import load_operators


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Compute every statistic once; thresholds come later, in select_shard.py.",
        "measure_shard.py --records shard.jsonl --image-root corpus "
        "--operators '[{\"text_length_filter\": {}}]' --out stats.parquet --perf perf.json",
    )
    cli.add_argument("--records", required=True, help="validated records")
    cli.add_argument("--image-root", required=True, help="folder image paths are relative to")
    cli.add_argument(
        "--operators", required=True, help="JSON list, or a path: operators without thresholds"
    )
    cli.add_argument("--model-settings", default="", help="OperatorModelSettings as JSON or a path")
    cli.add_argument("--out", required=True, help="statistics as Parquet, one row a record")
    cli.add_argument("--perf", required=True, help="throughput and memory as JSON")
    return cli


def main(args: argparse.Namespace) -> None:
    """Measure."""
    measure_shard(
        args.records,
        image_root=args.image_root,
        operators=load_operators(args.operators),
        out=args.out,
        perf=args.perf,
        model_settings=_model_settings(args.model_settings),
    )


def _model_settings(text: str) -> Any:
    """Return the settings, if any; their library takes longer to import than most shards."""
    if not text:
        return None
    from recap.settings import OperatorModelSettings

    return parse_settings(OperatorModelSettings, text)


if __name__ == "__main__":
    run_cli(main, parser())
