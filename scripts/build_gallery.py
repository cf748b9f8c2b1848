"""Draw a sample of records with their old and new captions, for the report."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.gallery import GalleryExtras, build_gallery


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Write id, image, original_text, new_text, kept and replaced of a few records.",
        "build_gallery.py --records 0.jsonl 1.jsonl --captions c0.jsonl c1.jsonl "
        "--kept merged.jsonl --size 12 --seed 1 --out gallery.jsonl",
    )
    cli.add_argument("--records", required=True, nargs="+", help="records that were captioned")
    cli.add_argument("--captions", required=True, nargs="+", help="their captions")
    cli.add_argument("--kept", required=True, help="merged records of the arm")
    cli.add_argument("--size", required=True, type=int, help="rows to draw")
    cli.add_argument("--seed", type=int, default=0, help="seed of the draw")
    cli.add_argument("--truth", help="JSONL of id, canonical caption and corruption, if known")
    cli.add_argument(
        "--decisions", nargs="*", default=[], help="why each record got its caption, JSONL"
    )
    cli.add_argument(
        "--similarity", nargs="*", default=[], help="tables of score_similarity.py, Parquet"
    )
    cli.add_argument("--held-out", help="ids that are not shown, of hold_out.py")
    cli.add_argument("--out", required=True, help="the rows as JSONL")
    return cli


def main(args: argparse.Namespace) -> None:
    """Build the gallery."""
    build_gallery(
        args.records,
        captions=args.captions,
        kept=args.kept,
        size=args.size,
        seed=args.seed,
        out=args.out,
        extras=GalleryExtras(args.truth, args.decisions, args.held_out, args.similarity),
    )


if __name__ == "__main__":
    run_cli(main, parser())
