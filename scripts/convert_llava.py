"""Convert Data-Juicer records to a LLaVA training set, one question per id."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.convert import convert_llava


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Restore each record's question from the original LLaVA file, or draw it by id.",
        "convert_llava.py --records merged.jsonl --original stage_1.json --image-root corpus "
        "--out train.json --manifest manifest.json",
    )
    cli.add_argument("--records", required=True, help="merged records")
    cli.add_argument("--original", help="LLaVA file that holds every id; else drawn by id")
    cli.add_argument("--image-root", required=True, help="folder image paths are relative to")
    cli.add_argument("--out", required=True, help="LLaVA JSON")
    cli.add_argument("--manifest", required=True, help="manifest to write")
    return cli


def main(args: argparse.Namespace) -> None:
    """Convert."""
    convert_llava(
        args.records,
        image_root=args.image_root,
        out=args.out,
        manifest=args.manifest,
        original=args.original,
    )


if __name__ == "__main__":
    run_cli(main, parser())
