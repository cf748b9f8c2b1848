"""Turn the similarity setting into a number, over all shards of a corpus."""

import argparse

from recap.cli import make_parser, parse_settings, run_cli
from recap.settings import SimilaritySettings


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Choose the similarity below which original captions are replaced.",
        "choose_similarity_threshold.py --similarity 00000.parquet 00001.parquet "
        '--settings \'{"model": "clip", "threshold": 0.5}\' --out threshold.json',
    )
    cli.add_argument("--similarity", required=True, nargs="+", help="tables of score_similarity.py")
    cli.add_argument("--settings", required=True, help="SimilaritySettings as JSON or a path")
    cli.add_argument("--out", required=True, help="threshold, its kind and counts as JSON")
    return cli


def main(args: argparse.Namespace) -> None:
    """Choose."""
    from recap.curate.similarity import choose_threshold

    choose_threshold(args.similarity, parse_settings(SimilaritySettings, args.settings), args.out)


if __name__ == "__main__":
    run_cli(main, parser())
