"""Check that a LoRA adapter of MGM is whole, sound and made for the given base."""

import argparse
from pathlib import Path

from recap.cli import make_parser, run_cli
from recap.mgm.options import add_parts_options, parts_from_args


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    options = make_parser(
        "Check a LoRA adapter of MGM: tensors, shapes, finite values, trained B, projector, rank "
        "and alpha, and the base it belongs to. Every failure is named; any failure ends with 3.",
        "check_lora_model.py runs/a/adapter --language-model models/gemma-2b-it "
        "--clip models/clip --convnext models/convnext --report runs/a/check.json",
    )
    options.add_argument("adapter", type=Path, help="folder of the adapter")
    add_parts_options(options)
    options.add_argument(
        "--initial-projector", type=Path, help="projector stage 2 started from; must have changed"
    )
    options.add_argument("--report", type=Path, help="JSON with everything found")
    return options


def main(args: argparse.Namespace) -> None:
    """Run the check."""
    from recap.mgm.check import check_adapter

    check_adapter(
        args.adapter,
        parts_from_args(args),
        initial_projector=args.initial_projector,
        report=args.report,
    )


if __name__ == "__main__":
    run_cli(main, parser())
