"""Answer one shard of a benchmark's questions with a checkpoint."""

import argparse
from pathlib import Path

from recap.cli import make_parser, parse_settings, run_cli
from recap.evaluate.protocol import CONTROLS
from recap.startup import TRANSFORMERS, load_libraries


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = make_parser(
        __doc__ or "",
        "predict_shard.py --checkpoint results/runs/base-s1/checkpoint --questions q.jsonl "
        '--image-root images --protocol \'{"kind": "textvqa", "ocr": true}\' '
        "--num-chunks 3 --chunk-idx 0 --model-id base-s1 --state-dir state --settings '{}' "
        "--answers answers/3_0.jsonl --perf perf/3_0.json",
    )
    result.add_argument("--checkpoint", type=Path, required=True, help="folder of the model")
    result.add_argument("--questions", type=Path, required=True, help="the whole question file")
    result.add_argument("--image-root", type=Path, help="folder the images are named from")
    result.add_argument("--protocol", required=True, help="benchmark protocol, JSON or a path")
    result.add_argument("--num-chunks", type=int, default=1, help="number of shards")
    result.add_argument("--chunk-idx", type=int, default=0, help="this shard, from 0")
    result.add_argument("--model-id", required=True, help="name of the model in the answers")
    result.add_argument("--state-dir", type=Path, required=True, help="folder of resumable state")
    result.add_argument("--settings", default="{}", help="evaluation settings, JSON or a path")
    result.add_argument("--control", default="none", choices=CONTROLS, help="other pictures")
    result.add_argument("--answers", type=Path, required=True, help="answer file to write")
    result.add_argument("--perf", type=Path, help="performance record to write")
    return result


def main(args: argparse.Namespace) -> None:
    """Build the request and answer it."""
    load_libraries(*TRANSFORMERS)
    from recap.evaluate.predict import PredictRequest, predict_shard
    from recap.evaluate.protocol import BenchmarkProtocol
    from recap.settings import EvaluateSettings

    request = PredictRequest(
        checkpoint=args.checkpoint,
        questions=args.questions,
        image_root=args.image_root,
        protocol=parse_settings(BenchmarkProtocol, args.protocol, "--protocol"),
        settings=parse_settings(EvaluateSettings, args.settings, "--settings"),
        num_chunks=args.num_chunks,
        chunk_index=args.chunk_idx,
        model_id=args.model_id,
        state_dir=args.state_dir,
        answers=args.answers,
        perf=args.perf,
        control=args.control,
    )
    predict_shard(request)


if __name__ == "__main__":
    run_cli(main, parser())
