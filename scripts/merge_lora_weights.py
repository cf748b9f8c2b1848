"""Merge a LoRA adapter of MGM into its base: a checkpoint that needs nothing else."""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli
from recap.mgm.options import add_parts_options, parts_from_args
from recap.settings import MergeSettings


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    options = make_parser(
        "Merge a LoRA adapter of MGM into its base: W + (alpha / r) B A, summed in float32 and "
        "rounded once.",
        "merge_lora_weights.py --lora-path runs/a/adapter --language-model models/gemma-2b-it "
        "--clip models/clip --convnext models/convnext --output-path runs/a/merged "
        """--settings '{"dtype": "bfloat16"}' --report runs/a/merge_report.json""",
    )
    options.add_argument("--lora-path", type=Path, required=True, help="folder of the adapter")
    add_parts_options(options)
    options.add_argument(
        "--output-path", type=Path, required=True, help="folder to write: absent, empty or a merge"
    )
    options.add_argument("--settings", default="{}", help="MergeSettings as JSON or a file")
    options.add_argument("--report", type=Path, help="JSON with the change of each module")
    return options


def main(args: argparse.Namespace) -> None:
    """Run the merge."""
    from recap.mgm.merge import merge_lora_weights

    merge_lora_weights(
        args.lora_path,
        parts_from_args(args),
        args.output_path,
        parse_settings(MergeSettings, args.settings),
        report=args.report,
    )


if __name__ == "__main__":
    run_cli(main, parser())
