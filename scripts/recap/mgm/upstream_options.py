"""Command line options that choose the form of what is written."""

import argparse
from typing import TYPE_CHECKING

from ..errors import RecapError

if TYPE_CHECKING:
    from .upstream_rules import UpstreamTowers

FORMATS = ("safetensors", "upstream")


def add_format_options(options: argparse.ArgumentParser) -> None:
    """Add ``--format`` and the towers' paths that go with upstream's form."""
    options.add_argument(
        "--format",
        choices=FORMATS,
        default="safetensors",
        help="safetensors: this pipeline's files; upstream: what unmodified upstream code loads",
    )
    options.add_argument(
        "--vision-tower",
        help="with --format upstream: CLIP's path where upstream runs; contains 'openai' or "
        "'ShareGPT4V'",
    )
    options.add_argument(
        "--vision-tower-aux",
        help="with --format upstream: ConvNeXt's path where upstream runs; contains 'openclip', "
        "'convnext', 'large' and 'd-320'",
    )


def towers_from_args(args: argparse.Namespace) -> "UpstreamTowers | None":
    """Return the towers' paths for upstream's form, or None for this pipeline's.

    Raises:
        RecapError: if they are missing, do not satisfy upstream's rules, or are
            given without ``--format upstream``.
    """
    from .upstream_rules import UpstreamTowers

    given = (args.vision_tower, args.vision_tower_aux)
    if args.format == "safetensors":
        if any(given):
            raise RecapError("--vision-tower and --vision-tower-aux go with --format upstream")
        return None
    if not all(given):
        raise RecapError(
            "--format upstream needs --vision-tower and --vision-tower-aux: upstream loads both "
            "towers from the paths in config.json"
        )
    return UpstreamTowers(*given)
