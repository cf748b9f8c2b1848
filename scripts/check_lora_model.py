"""Check that a LoRA adapter of MGM is whole, sound and made for the given base."""

import argparse
from pathlib import Path
from typing import Any

from recap.cli import add_json_option, make_parser, run_cli
from recap.mgm.options import add_parts_options, parts_from_args
from recap.startup import TRANSFORMERS, load_libraries


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    options = make_parser(
        "Check a LoRA, rsLoRA or DoRA adapter of MGM: tensors, shapes, finite values, trained B, "
        "projector, rank and alpha, and the base it belongs to. Every failure is named, with what "
        "to do; any failure of the adapter ends with 3, an unreadable base with 2.",
        "check_lora_model.py runs/a/adapter --base models/gemma-2b-it "
        "--clip models/clip --convnext models/convnext --report runs/a/check.json",
    )
    options.add_argument("adapter", type=Path, help="folder of the adapter")
    add_parts_options(options)
    options.add_argument(
        "--initial-projector",
        type=Path,
        help="projector stage 2 started from; each of its tensors must have changed",
    )
    options.add_argument("--report", type=Path, help="JSON with everything found")
    add_json_option(options)
    return options


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Run the check."""
    load_libraries(*TRANSFORMERS)
    from recap.mgm.check import check_adapter

    return check_adapter(
        args.adapter,
        parts_from_args(args, args.adapter),
        initial_projector=args.initial_projector,
        report=args.report,
    )


if __name__ == "__main__":
    run_cli(main, parser())
