"""Measure the captions of one arm: lengths, diversity, repetition, duplicates, similarity."""

import argparse

from recap.cli import make_parser, parse_settings, run_cli
from recap.settings import QualitySettings


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Measure the captions an arm trains on, special tokens removed, each number with its "
        "counter and a bootstrap interval over records.",
        "measure_quality.py --arm baseline --records merged.jsonl --out quality.json "
        "--manifest quality.manifest.json --perf perf.json",
    )
    cli.add_argument("--arm", required=True, help="the arm's name")
    cli.add_argument("--records", required=True, help="its merged records")
    cli.add_argument(
        "--similarity", nargs="*", default=[], help="tables of score_similarity.py, one a shard"
    )
    cli.add_argument("--settings", default="{}", help="QualitySettings as JSON or a path")
    cli.add_argument("--out", required=True, help="measures as JSON")
    cli.add_argument("--manifest", required=True, help="manifest to write")
    cli.add_argument("--perf", required=True, help="time and memory as JSON")
    return cli


def main(args: argparse.Namespace) -> None:
    """Measure."""
    from recap.quality.measure import measure_quality

    measure_quality(
        args.arm,
        args.records,
        similarity=args.similarity,
        settings=parse_settings(QualitySettings, args.settings),
        out=args.out,
        manifest=args.manifest,
        perf=args.perf,
    )


if __name__ == "__main__":
    run_cli(main, parser())
