"""Score how well each record's old and new caption fit its image."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.options import add_scoring_options, scoring_arguments


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Score a shard by CLIP or a matching model: each distinct image goes through it once.",
        "score_similarity.py --records kept.jsonl --captions captions.jsonl --image-root corpus "
        '--model models/clip --settings \'{"model": "clip"}\' --out similarity.parquet '
        "--perf perf.json",
    )
    add_scoring_options(
        cli,
        captions="new captions of exactly these records",
        out="both similarities as Parquet, one row a record",
    )
    return cli


def main(args: argparse.Namespace) -> None:
    """Score."""
    from recap.curate.similarity import score_similarity

    score_similarity(**scoring_arguments(args))


if __name__ == "__main__":
    run_cli(main, parser())
