"""Command line options that name the parts of a model."""

import argparse
from pathlib import Path

from .parts import ModelParts


def add_parts_options(options: argparse.ArgumentParser) -> None:
    """Add the folders of the base and what goes with them."""
    options.add_argument(
        "--language-model", type=Path, required=True, help="folder of the language model"
    )
    options.add_argument("--clip", type=Path, required=True, help="folder of the CLIP tower")
    options.add_argument(
        "--convnext", type=Path, required=True, help="OpenCLIP folder of the ConvNeXt tower"
    )
    options.add_argument(
        "--image-size-aux", type=int, default=768, help="edge of the auxiliary image in pixels"
    )
    options.add_argument("--conversation", default="gemma", help="conversation template")


def parts_from_args(args: argparse.Namespace) -> ModelParts:
    """Return the parts that the options of :func:`add_parts_options` name."""
    return ModelParts(
        language_model=args.language_model,
        clip=args.clip,
        convnext=args.convnext,
        conversation=args.conversation,
        image_size_aux=args.image_size_aux,
    )
