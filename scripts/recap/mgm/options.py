"""Command line options that name the parts of a model."""

import argparse
from dataclasses import fields
from pathlib import Path

from ..errors import RecapError
from .families import family_template, recorded_template
from .parts import ModelParts
from .templates import TEMPLATES


def add_parts_options(options: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add the folders of the base and what goes with them."""
    options.add_argument(
        "--language-model",
        "--base",
        "--model-base",
        type=Path,
        required=required,
        help="folder of the language model, unquantised",
    )
    options.add_argument("--clip", type=Path, required=required, help="folder of the CLIP tower")
    options.add_argument(
        "--convnext", type=Path, required=required, help="OpenCLIP folder of the ConvNeXt tower"
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
        choices=sorted(TEMPLATES),
        help="conversation template (default: the adapter's, else that of the language model's "
        "family)",
    )


def parts_from_args(args: argparse.Namespace, adapter: Path | None = None) -> ModelParts:
    """Return the parts that the options of :func:`add_parts_options` name.

    Args:
        args: the parsed options.
        adapter: folder of an adapter that was trained on these parts.

    Raises:
        RecapError: if no template is named, and the folders do not tell which it is.
    """
    named = {field.name: getattr(args, field.name) for field in fields(ModelParts)}
    if named["conversation"] is None:
        named["conversation"] = _recorded(adapter) or family_template(args.language_model)
    return ModelParts(**named)


def _recorded(adapter: Path | None) -> str | None:
    try:
        return None if adapter is None else recorded_template(adapter)
    except RecapError:
        return None  # a broken file is for the tool itself to report
