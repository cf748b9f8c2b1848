"""Keep of every record's candidate captions the one that fits its image best."""

import argparse

from recap.cli import make_parser, parse_settings, run_cli
from recap.settings import SimilaritySettings


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Choose among a shard's candidate captions by similarity; of equals the first.",
        "choose_caption.py --records kept.jsonl --captions captions.jsonl --image-root corpus "
        '--model models/clip --settings \'{"model": "clip"}\' --out chosen.jsonl '
        "--perf perf.json",
    )
    cli.add_argument("--records", required=True, help="kept records")
    cli.add_argument("--captions", required=True, help="candidates of exactly these records")
    cli.add_argument("--image-root", required=True, help="folder image paths are relative to")
    cli.add_argument("--model", required=True, help="folder of the similarity model")
    cli.add_argument("--settings", required=True, help="SimilaritySettings as JSON or a path")
    cli.add_argument("--out", required=True, help="id, caption, its place and all similarities")
    cli.add_argument("--perf", required=True, help="throughput and memory as JSON")
    cli.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto: a GPU if there is one",
    )
    return cli


def main(args: argparse.Namespace) -> None:
    """Choose."""
    from recap.curate.captions import choose_captions

    choose_captions(
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
