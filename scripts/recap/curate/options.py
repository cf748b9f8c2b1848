"""The command line of steps that score captions against their images."""

import argparse
from typing import Any

from ..cli import add_device_option, parse_settings
from ..settings import SimilaritySettings


def add_scoring_options(cli: argparse.ArgumentParser, *, captions: str, out: str) -> None:
    """Add the options of a step that runs a similarity model on a shard.

    Args:
        cli: the parser.
        captions: help for the captions that are read.
        out: help for the file that is written.
    """
    cli.add_argument("--records", required=True, help="kept records")
    cli.add_argument("--captions", required=True, help=captions)
    cli.add_argument("--image-root", required=True, help="folder image paths are relative to")
    cli.add_argument("--model", required=True, help="folder of the similarity model")
    cli.add_argument("--settings", required=True, help="SimilaritySettings as JSON or a path")
    cli.add_argument("--out", required=True, help=out)
    cli.add_argument("--perf", required=True, help="throughput and memory as JSON")
    add_device_option(cli)


def scoring_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of a scoring step, its settings read.

    Raises:
        RecapError: naming every setting that is wrong.
    """
    return {**vars(args), "settings": parse_settings(SimilaritySettings, args.settings)}
