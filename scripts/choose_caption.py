"""Keep of every record's candidate captions the one that fits its image best."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.options import add_scoring_options, scoring_arguments


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Choose among a shard's candidate captions by similarity; of equals the first.",
        "choose_caption.py --records kept.jsonl --captions captions.jsonl --image-root corpus "
        '--model models/clip --settings \'{"model": "clip"}\' --out chosen.jsonl '
        "--perf perf.json",
    )
    add_scoring_options(
        cli,
        captions="candidates of exactly these records",
        out="id, caption, its place and all similarities",
    )
    return cli


def main(args: argparse.Namespace) -> None:
    """Choose."""
    from recap.curate.captions import choose_captions

    choose_captions(**scoring_arguments(args))


if __name__ == "__main__":
    run_cli(main, parser())
