"""Merge a LoRA adapter of MGM into its base: a checkpoint that needs nothing else."""

import argparse
from pathlib import Path
from typing import Any

from recap.cli import add_json_option, make_parser, parse_settings, run_cli
from recap.mgm.options import add_parts_options, parts_from_args
from recap.mgm.upstream_options import add_format_options, towers_from_args
from recap.settings import MergeSettings
from recap.startup import TRANSFORMERS, load_libraries


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    options = make_parser(
        "Merge a LoRA, rsLoRA or DoRA adapter of MGM into its base: W + scale B A, for DoRA with "
        "its rows' lengths, computed in float32 and rounded once. The adapter is checked first; "
        "one that does not fit ends with 2.",
        "merge_lora_weights.py --model-path runs/a/adapter --model-base models/gemma-2b-it "
        "--clip models/clip --convnext models/convnext --save-model-path runs/a/merged "
        """--settings '{"dtype": "bfloat16"}' --report runs/a/merge_report.json""",
    )
    options.add_argument(
        "--lora-path", "--model-path", type=Path, required=True, help="folder of the adapter"
    )
    add_parts_options(options)
    options.add_argument(
        "--output-path",
        "--save-model-path",
        type=Path,
        required=True,
        help="folder to write: absent, empty or a merge",
    )
    options.add_argument("--settings", default="{}", help="MergeSettings as JSON or a file")
    add_format_options(options)
    options.add_argument("--report", type=Path, help="JSON with the change of each module")
    options.add_argument("--finished-state", type=Path, help="of the training, to be removed")
    add_json_option(options)
    return options


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Run the merge."""
    load_libraries(*TRANSFORMERS)
    from recap.mgm.merge import merge_lora_weights
    from recap.train.state import remove_state

    if args.finished_state is not None:
        remove_state(args.finished_state)
    return merge_lora_weights(
        args.lora_path,
        parts_from_args(args, args.lora_path),
        args.output_path,
        parse_settings(MergeSettings, args.settings),
        report=args.report,
        towers=towers_from_args(args),
    )


if __name__ == "__main__":
    run_cli(main, parser())
