"""Questions a second at full size, from JPEG files, within 24 GiB of one GPU.

    PYTHONPATH=scripts python benchmarks/evaluate.py --folder /tmp/mgm --out evaluate.json

The peer is upstream's way: one question at a time, its picture encoded anew, keys and values
of every candidate of the mining, logits of all positions in float32, four loader processes.
All modes run in turns within one process on one model with random weights; questions have
TextVQA's lengths and 1.58 of them a picture; answers have six tokens. Besides, it says how
many answers each mode shares with ours of one question at a time, and what reading a question
costs at least.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from evaluate_parts import PROTOCOL, Asked, parts_of, timed
from torch.utils.flop_counter import FlopCounterMode
from train_parts import matmul_peak

GIB = 1 << 30
SIZES = (16, 64)
PEER = "upstream's way: 1 question"


def main() -> None:
    """Measure all modes."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="for parts and pictures")
    cli.add_argument("--out", type=Path, required=True, help="figures as JSON")
    cli.add_argument("--scale", choices=("full", "small"), default="full")
    cli.add_argument("--dtype", default="float16")
    cli.add_argument("--questions", type=int, default=512, help="of ours, a round")
    cli.add_argument("--plain-questions", type=int, default=128)
    cli.add_argument("--peer-questions", type=int, default=32)
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--cap-gib", type=float, default=24.0)
    args = cli.parse_args()
    asked = Asked(parts_of(args.folder, args.scale), args.folder, args.dtype, args.questions)
    cuda = torch.cuda.is_available()
    if cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, args.cap_gib * GIB / total))
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "torch": torch.__version__,
        "cpus": len(os.sched_getaffinity(0)),
        "matmul peak, TFLOP/s": matmul_peak() if cuda else None,
        "dtype": args.dtype,
        "least work, TFLOP": least_work(asked),
    }
    figures["rows"] = compare(asked, args)
    args.out.write_text(json.dumps(figures, indent=1))
    print(json.dumps({key: value for key, value in figures.items() if key != "rows"}))
    for row in figures["rows"]:
        print("|", " | ".join(str(value) for value in row.values()), "|", flush=True)


def compare(asked: Asked, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row a mode, medians over the rounds."""
    eager, compiled = (asked.answerer(args.dtype, flag) for flag in (False, True))
    start = time.perf_counter()
    asked.ours(compiled, 64, args.questions, True)
    warm = round(time.perf_counter() - start, 1)
    peer, plain = args.peer_questions, args.plain_questions
    modes: dict[str, tuple[Callable[[], list[str]], int]] = {
        PEER: (lambda: asked.plain(1, peer, 4), peer),
        "plain: 16 questions": (lambda: asked.plain(16, plain, 8), plain),
    }
    for size in SIZES:
        call = partial(asked.ours, eager, size, args.questions, False)
        modes[f"ours: {size} questions"] = (call, args.questions)
    call = partial(asked.ours, compiled, SIZES[-1], args.questions, True)
    modes["ours, compiled: 64 questions"] = (call, args.questions)
    rows = measure(modes, args.rounds)
    alone = asked.ours(asked.answerer(args.dtype, False), 1, plain, False)
    return [
        {
            "mode": name,
            "questions a second": round(row["speed"], 2),
            "times upstream's way": round(row["speed"] / rows[PEER]["speed"], 2),
            "reserved, GiB": row["reserved"],
            "same answers as ours alone": agreement(row["answers"], alone),
            "first pass, s": warm if name == "ours, compiled: 64 questions" else None,
        }
        for name, row in rows.items()
    ]


def measure(
    modes: dict[str, tuple[Callable[[], list[str]], int]], rounds: int
) -> dict[str, dict[str, Any]]:
    """Run modes in turns; the first turn warms up where more than one is made."""
    found: dict[str, dict[str, Any]] = {name: {"speeds": [], "reserved": 0.0} for name in modes}
    for _ in range(rounds + (rounds > 1)):
        for name, (call, count) in modes.items():
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                speed, found[name]["answers"] = timed(call, count)
            except torch.OutOfMemoryError:
                speed, found[name]["answers"] = 0.0, []
            found[name]["speeds"].append(speed)
            if torch.cuda.is_available():
                reserved = round(torch.cuda.max_memory_reserved() / GIB, 2)
                found[name]["reserved"] = max(found[name]["reserved"], reserved)
            print(f"{name}: {speed:.2f} questions/s", flush=True)
    for row in found.values():
        row["speed"] = statistics.median(row["speeds"][-rounds:])
    return found


def agreement(answers: list[str], alone: list[str]) -> str:
    """Return how many answers are the same, of those that both have, and how many differ at all."""
    pairs = list(zip(answers, alone, strict=False))
    distinct = len({b for _, b in pairs})
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)}, {distinct} distinct"


def least_work(asked: Asked) -> dict[str, float]:
    """Return the TFLOP of a picture, and of a whole prompt that shares nothing."""
    model = asked.loaded.model
    size = model.config.image_size_aux
    pixels = torch.zeros((1, 3, size, size), dtype=torch.uint8, device=model.device)
    model.language_model.set_attn_implementation("eager")  # the counter knows no grouped queries
    with torch.inference_mode():
        with FlopCounterMode(display=False) as towers:
            features = model.encode_images(pixels)
        embedded = features.new_zeros((1, features.shape[1] + 100, features.shape[2]))
        with FlopCounterMode(display=False) as decoder:
            model.language_model.model(inputs_embeds=embedded)
    model.language_model.set_attn_implementation("sdpa")
    return {
        "picture": round(towers.get_total_flops() / 1e12, 3),
        "prompt of 100 tokens and a picture": round(decoder.get_total_flops() / 1e12, 3),
        "answer tokens": PROTOCOL.max_new_tokens,
    }


if __name__ == "__main__":
    main()
