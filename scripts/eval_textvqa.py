"""Answer TextVQA questions with a checkpoint; the flags of MGM's own script.

With --model-base, --clip and --convnext, --model-path names adapters of that base, which
answer unmerged; several are asked in one pass, each into an answer file of its own.
"""

import argparse
from pathlib import Path

from recap.cli import make_parser, run_cli
from recap.evaluate.protocol import CONTROLS
from recap.mgm.options import add_parts_options
from recap.startup import TRANSFORMERS, load_libraries


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        "eval_textvqa.py --model-path work_dirs/MGM-2B --question-file "
        "llava_textvqa_val_v051_ocr.jsonl --image-folder train_images --answers-file 1_0.jsonl",
    )
    result.add_argument(
        "--model-path", type=Path, nargs="+", required=True, help="checkpoint, or adapters"
    )
    add_parts_options(result, required=False)
    result.add_argument("--question-file", type=Path, required=True, help="questions, JSONL")
    result.add_argument("--image-folder", type=Path, required=True, help="folder of the images")
    result.add_argument(
        "--answers-file", type=Path, nargs="+", required=True, help="answer file a model"
    )
    result.add_argument("--num-chunks", type=int, default=1, help="number of shards")
    result.add_argument("--chunk-idx", type=int, default=0, help="this shard, from 0")
    result.add_argument("--max_new_tokens", type=int, default=128, help="longest answer")
    result.add_argument("--temperature", type=float, default=0, choices=[0.0], help="only greedy")
    result.add_argument("--num_beams", type=int, default=1, choices=[1], help="only greedy")
    result.add_argument("--conv-mode", help="refuse a checkpoint of another template")
    result.add_argument("--no-ocr", action="store_true", help="leave the OCR tokens out")
    result.add_argument("--batch-size", type=int, help="questions at once (default: what fits)")
    result.add_argument("--dtype", default="float16", help="float32, bfloat16 or float16")
    result.add_argument("--control", default="none", choices=CONTROLS, help="other pictures")
    result.add_argument("--state-dir", type=Path, help="default: .state beside the answers")
    return result


def main(args: argparse.Namespace) -> None:
    """Translate the flags and answer."""
    load_libraries(*TRANSFORMERS)
    from recap.evaluate.predict import predict_shards
    from recap.evaluate.upstream import textvqa_requests

    predict_shards(textvqa_requests(args))


if __name__ == "__main__":
    run_cli(main, parser())
