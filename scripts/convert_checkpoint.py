"""Convert a checkpoint, adapter or projector of MGM to or from upstream's files."""

import argparse
from pathlib import Path
from typing import Any

from recap.cli import add_json_option, make_parser, run_cli
from recap.mgm.upstream_options import add_format_options, towers_from_args


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    options = make_parser(
        "Convert a folder: a full checkpoint, an adapter, or stage 1's mm_projector. Tensors pass "
        "through byte for byte unless --dtype is given.",
        "convert_checkpoint.py runs/a/merged exports/mgm-2b-a --format upstream --vision-tower "
        "models/openai/clip-vit-large-patch14-336 --vision-tower-aux "
        "models/openclip-convnext-large-d-320-laion2B-s29B-b131K --dtype bfloat16",
    )
    options.add_argument("source", type=Path, help="folder to read, this pipeline's or upstream's")
    options.add_argument("out", type=Path, help="folder to write: absent or empty")
    add_format_options(options)
    options.add_argument(
        "--clip", type=Path, help="folder of the CLIP tower, where config.json names none here"
    )
    options.add_argument(
        "--convnext",
        type=Path,
        help="the same of the ConvNeXt tower; with both, an mm_projector.bin holds the towers too",
    )
    options.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="type to cast to"
    )
    options.add_argument("--max-shard-size", default="5GB", help="largest weights file")
    options.add_argument(
        "--verify", action="store_true", help="check a full checkpoint against its manifest first"
    )
    add_json_option(options)
    return options


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Run the conversion."""
    from recap.mgm.upstream_convert import Conversion, convert_checkpoint

    what = Conversion(
        towers=towers_from_args(args),
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        clip=args.clip,
        convnext=args.convnext,
        verify=args.verify,
    )
    return convert_checkpoint(args.source, args.out, what)


if __name__ == "__main__":
    run_cli(main, parser())
