"""What a batch of answers consists of, and what bounds it: time, arithmetic, share of the peak.

    PYTHONPATH=scripts python benchmarks/evaluate_bounds.py --folder /tmp/mgm --out bounds.json

Parts of one batch at full size with random weights, from pixels that lie on the GPU, medians of
several turns; then the whole runner, from files. Kernel time is the sum
of what the GPU ran; where it is near the wall time, the GPU is what bounds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from evaluate import least_work
from evaluate_parts import PROTOCOL, Asked, parts_of, timed
from train_parts import matmul_peak

from recap.evaluate.model import MgmAnswerer
from recap.evaluate.ordering import asking_order, next_batch
from recap.mgm.answer_state import AnswerState
from recap.mgm.answering import PICTURES_A_PASS, SharingEngine
from recap.mgm.encoding import mine_views, view_images
from recap.mgm.lengths import round_up

TURNS = 5


def main() -> None:
    """Measure parts and wholes."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="for parts and pictures")
    cli.add_argument("--out", type=Path, required=True, help="figures as JSON")
    cli.add_argument("--dtype", default="float16")
    cli.add_argument("--size", type=int, default=64, help="questions a batch")
    cli.add_argument("--questions", type=int, default=640)
    cli.add_argument("--eager", action="store_true", help="compile nothing")
    cli.add_argument("--kernels", type=int, default=0, help="print so many of the longest kernels")
    args = cli.parse_args()
    asked = Asked(parts_of(args.folder, "full"), args.folder, args.dtype, args.questions)
    picture = least_work(asked)["picture"]
    answerer = asked.answerer(args.dtype, not args.eager)
    answerer.expect(args.questions)
    peak = matmul_peak()
    with torch.inference_mode(), answerer._computing():
        parts = batch_parts(answerer, asked, args.size, picture)
        rows = [measure(name, call, work, peak) for name, (call, work) in parts.items()]
    wholes = whole(answerer, asked, args)
    figures = {
        "device": torch.cuda.get_device_name(),
        "matmul peak, TFLOP/s": peak,
        "questions a batch": args.size,
        "parts": rows,
        "runner": wholes,
    }
    args.out.write_text(json.dumps(figures, indent=1))
    for row in rows:
        print("|", " | ".join(str(value) for value in row.values()), "|", flush=True)
    print(json.dumps(wholes))


def batch_parts(
    answerer: MgmAnswerer, asked: Asked, size: int, picture: float
) -> dict[str, tuple[Callable[[], Any], float]]:
    """Return the parts of a batch as calls that can be repeated in this order, and their TFLOP.

    Its pictures are encoded in whole passes, with the first ones of the next batch. Of the decoder,
    products with its weights are counted, not attention.
    """
    model = asked.loaded.model
    ordered = asking_order(asked.questions)
    batch = next_batch(ordered, size, size)
    first = {question.image: question for question in reversed(ordered[size:])}
    needed = len({question.image for question in batch})
    names = list(reversed(first))[: round_up(needed, PICTURES_A_PASS)]
    pixels = [asked.pixels(first[name]) for name in names]
    parts = [pixels[at : at + PICTURES_A_PASS] for at in range(0, len(pixels), PICTURES_A_PASS)]
    passes = [torch.stack(part).cuda() for part in parts]
    encoded = [feature for part in parts for feature in answerer.encode(part)]
    features = dict(zip(names, encoded, strict=True))
    texts, shown = zip(*((q.model_text, features[q.image]) for q in batch), strict=True)
    (prompts,) = answerer.write(texts, shown)
    engine = answerer._engine_for(size)
    if not isinstance(engine, SharingEngine) or prompts.pictures is None:
        raise SystemExit("the model is one that the sharing engine does not read")
    state = engine.begin(prompts).state
    engine.finish(engine.begin(prompts))
    views = [view_images(model, images) for images in passes]
    pictures, tokens = prompts.pictures, sum(map(len, prompts.after))
    layers = weights(model.language_model.model.layers)
    head = weights(model.language_model.get_output_embeddings())
    made = PROTOCOL.max_new_tokens - 1
    return {
        f"towers, {len(pixels)} pictures": (
            lambda: [view_images(model, images) for images in passes], picture * len(pixels)
        ),
        "mining and projector": (lambda: [mine_views(model, *view) for view in views], 0.0),
        f"reading {needed} pictures, {prompts.shared} positions each": (
            lambda: engine._read_pictures(prompts, pictures, state),
            2 * layers * needed * prompts.shared,
        ),
        f"reading questions, {tokens} tokens": (
            lambda: engine._read_texts(prompts, state), 2 * layers * tokens
        ),
        f"{made} steps": (lambda: steps(engine, state), 2 * (layers + head) * made * len(batch)),
    }  # fmt: skip


def weights(module: Any) -> float:
    """Return a module's parameters, in units of 10^12."""
    return float(sum(parameter.numel() for parameter in module.parameters())) / 1e12


def steps(engine: SharingEngine, state: AnswerState) -> None:
    """Make the steps of a batch, in its own place again and again."""
    state.progress.count.fill_(1)
    state.progress.places -= PROTOCOL.max_new_tokens - 1
    for _ in range(PROTOCOL.max_new_tokens - 1):
        state.step(engine._stops)


def measure(name: str, call: Callable[[], Any], work: float, peak: float) -> dict[str, Any]:
    """Return a part's time and arithmetic."""
    times = []
    for _ in range(TURNS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    kernels = kernel_seconds(call)
    seconds = statistics.median(times)
    return {
        "part": name,
        "ms": round(1000 * seconds, 1),
        "kernel ms": round(1000 * kernels, 1),
        "TFLOP": round(work, 1) if work else None,
        "share of the peak": f"{100 * work / seconds / peak:.0f} %" if work else None,
    }


def kernel_seconds(call: Callable[[], Any], show: int = 0) -> float:
    """Return how long the GPU's kernels ran in a call."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        call()
        torch.cuda.synchronize()
    events = profile.key_averages()
    if show:
        print(
            events.table(sort_by="self_cuda_time_total", row_limit=show, max_name_column_width=90)
        )
    return sum(event.self_device_time_total for event in events) / 1e6


def whole(answerer: MgmAnswerer, asked: Asked, args: argparse.Namespace) -> dict[str, Any]:
    """Return the runner's speed from files, and by its kernels' time alone."""
    count = len(asked.questions)

    def run() -> float:
        return timed(lambda: asked.ours(answerer, args.size, count, not args.eager), count)[0]

    first, speed = run(), run()
    kernels = kernel_seconds(run, args.kernels)
    return {
        "questions": count,
        "first time, s": round(count / first, 1),
        "from files, questions/s": round(speed, 1),
        "by kernel time, questions/s": round(count / kernels, 1),
    }


if __name__ == "__main__":
    main()
