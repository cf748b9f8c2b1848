"""Merge the segments that finished jobs left in a caption store."""

import argparse
import logging
from pathlib import Path

from recap.caption.store import CaptionStore
from recap.cli import make_parser, run_cli
from recap.errors import RecapError


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Merge old segments of a caption store, one captioner's after the other. Safe while "
        "other jobs write, as long as none of them pauses for longer than --older-than-hours.",
        "merge_caption_store.py --store results/caption_store/blip2-opt-2.7b",
    )
    cli.add_argument("--store", required=True, help="folder of a caption store")
    cli.add_argument(
        "--older-than-hours", type=float, default=24.0, help="leave segments written to since then"
    )
    return cli


def main(args: argparse.Namespace) -> None:
    """Merge."""
    folders = sorted(path.parent for path in Path(args.store).glob("*/segments"))
    if not folders:
        raise RecapError(f"{args.store} holds no captioner's segments; name a caption store")
    for folder in folders:
        merged = CaptionStore(args.store, folder.name).merge(args.older_than_hours)
        logging.getLogger(__name__).info("%s: %d segments merged", folder.name, merged)


if __name__ == "__main__":
    run_cli(main, parser())
