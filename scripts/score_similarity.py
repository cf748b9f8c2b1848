"""Score how well each record's old and new caption fit its image."""

import argparse

from recap.cli import make_parser, parse_settings, run_cli
from recap.settings import SimilaritySettings


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Score a shard by CLIP or a matching model: each distinct image goes through it once.",
        "score_similarity.py --records kept.jsonl --captions captions.jsonl --image-root corpus "
        '--model models/clip --settings \'{"model": "clip"}\' --out similarity.parquet '
        "--perf perf.json",
    )
    cli.add_argument("--records", required=True, help="kept records")
    cli.add_argument("--captions", required=True, help="new captions of exactly these records")
    cli.add_argument("--image-root", required=True, help="folder image paths are relative to")
    cli.add_argument("--model", required=True, help="folder of the similarity model")
    cli.add_argument("--settings", required=True, help="SimilaritySettings as JSON or a path")
    cli.add_argument("--out", required=True, help="both similarities as Parquet, one row a record")
    cli.add_argument("--perf", required=True, help="throughput and memory as JSON")
    cli.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto: a GPU if there is one",
    )
    return cli


def main(args: argparse.Namespace) -> None:
    """Score."""
    from recap.curate.similarity import score_similarity

    score_similarity(
        args.records,
        captions=args.captions,
        image_root=args.image_root,
        model=args.model,
        settings=parse_settings(SimilaritySettings, args.settings),
        out=args.out,
        perf=args.perf,
        device=args.device,
    )


if __name__ == "__main__":
    run_cli(main, parser())
