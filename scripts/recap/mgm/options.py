"""Command line options that name the parts of a model."""

import argparse
from dataclasses import fields
from pathlib import Path

from .parts import ModelParts
from .templates import TEMPLATES


def add_parts_options(options: argparse.ArgumentParser) -> None:
    """Add the folders of the base and what goes with them."""
    options.add_argument(
        "--language-model",
        "--base",
        "--model-base",
        type=Path,
        required=True,
        help="folder of the language model, unquantised",
    )
    options.add_argument("--clip", type=Path, required=True, help="folder of the CLIP tower")
    options.add_argument(
        "--convnext", type=Path, required=True, help="OpenCLIP folder of the ConvNeXt tower"
    )
    options.add_argument(
        "--image-size-aux", type=int, default=768, help="edge of the auxiliary image in pixels"
    )
    options.add_argument(
        "--image-grid", type=int, default=1, help="crops a side that the CLIP tower sees"
    )
    options.add_argument(
        "--image-global", action="store_true", help="show CLIP the whole image besides the crops"
    )
    options.add_argument(
        "--conversation",
        default="gemma",
        choices=sorted(TEMPLATES),
        help="conversation template, that of the language model's family (default: %(default)s)",
    )


def parts_from_args(args: argparse.Namespace) -> ModelParts:
    """Return the parts that the options of :func:`add_parts_options` name."""
    return ModelParts(**{field.name: getattr(args, field.name) for field in fields(ModelParts)})
