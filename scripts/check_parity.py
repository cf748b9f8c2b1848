"""Check that a merged MGM answers exactly as its base with the adapter attached."""

import argparse
from pathlib import Path
from typing import Any

from recap.cli import add_json_option, make_parser, parse_settings, run_cli
from recap.mgm.options import add_parts_options, parts_from_args
from recap.settings import MergeSettings
from recap.startup import TRANSFORMERS, load_libraries


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    options = make_parser(
        "Compare a merged MGM with base and adapter on image prompts, a blank picture and text "
        "alone: files, weights, logits and greedy tokens, in float32 and in the type that the "
        "checkpoint is used in. A difference ends with 3 and names the module.",
        "check_parity.py --merged runs/a/merged --adapter runs/a/adapter "
        "--base models/gemma-2b-it --clip models/clip --convnext models/convnext "
        "--images-root textvqa/images --questions textvqa/questions.jsonl "
        """--settings '{"dtype": "bfloat16"}' --out runs/a/parity.json""",
    )
    options.add_argument("--merged", type=Path, required=True, help="the merged checkpoint")
    options.add_argument("--adapter", type=Path, required=True, help="folder of the adapter")
    add_parts_options(options)
    options.add_argument("--images-root", type=Path, required=True, help="folder of the pictures")
    options.add_argument(
        "--questions", type=Path, required=True, help="JSONL with question_id, image, text"
    )
    options.add_argument("--settings", default="{}", help="MergeSettings as JSON or a file")
    options.add_argument(
        "--deployed-dtype",
        choices=("float32", "bfloat16", "float16"),
        help="type the checkpoint will answer in (default: that of its weights)",
    )
    options.add_argument("--out", type=Path, required=True, help="JSON report")
    options.add_argument("--perf", type=Path, help="JSON with time and peak memory")
    options.add_argument("--device", help="where to compute; a GPU if there is one")
    add_json_option(options)
    return options


def main(args: argparse.Namespace) -> dict[str, Any]:
    """Run the gate."""
    load_libraries(*TRANSFORMERS)
    import torch

    from recap.mgm.parity import check_parity
    from recap.perf import PerfRecord

    perf = PerfRecord("merge", "prompts")
    report = check_parity(
        args.merged,
        args.adapter,
        parts_from_args(args, args.adapter),
        images_root=args.images_root,
        questions=args.questions,
        settings=parse_settings(MergeSettings, args.settings),
        out=args.out,
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        deployed_dtype=args.deployed_dtype,
    )
    perf.items = len(report["prompts"])
    if args.perf is not None:
        perf.write(args.perf)
    return report


if __name__ == "__main__":
    run_cli(main, parser())
