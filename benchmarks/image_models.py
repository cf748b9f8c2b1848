"""Image operators with a model: Data-Juicer's, one image a call, against batches.

Full-size watermark detector (ViT-B/16) and CLIP models with random weights,
JPEGs of real size drawn on the spot. Both sides start from JPEG files, on the
same device, in turns; models are loaded beforehand. Data-Juicer's side runs in
float32, as it does. `largest gap` is how far the two sides' numbers lie apart,
beside how far the numbers themselves reach. `prepare alone` and `model alone` say
what bounds the batches: decoding and resizing, or the model on prepared pixels.
GPU memory is each side's weights and what it reserved beyond them at its peak
(on a CPU the weights alone).

    PYTHONPATH=scripts python benchmarks/image_models.py --out image_models.json

Needs torch, transformers, numpy and Pillow. Data-Juicer's own class is used
where it is installed, otherwise a copy of its loop.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from image_models_parts import MODELS, build_model, captions, draw_pictures, their_operator

from recap.curate.ahead import Source, decode, prepared, usable_cores
from recap.curate.clip import ClipScorer
from recap.curate.image_models import Classifier, score_images


def main() -> None:
    """Measure every model in every type, print the table and write the figures."""
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        paths = draw_pictures(Path(folder) / "pictures", args.images)
        rows = []
        for name in args.models:
            model = build_model(name, Path(folder) / name, tiny=args.tiny)
            for dtype in args.dtypes:
                rows.append(measure(name, model, dtype, paths, args))
                print_table(rows[-1], head=len(rows) == 1)
        document = {**facts(args, paths), "rows": rows}
    args.out.write_text(json.dumps(document, indent=2))


def parse() -> argparse.Namespace:
    """Read the command line."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="figures as JSON")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=("float32", "bfloat16", "float16"),
        default=["float32", "bfloat16"] if cuda else ["float32"],
    )
    parser.add_argument("--images", type=int, default=4096 if cuda else 64)
    parser.add_argument("--their-images", type=int, default=192 if cuda else 16)
    parser.add_argument("--batch-size", type=int, default=256 if cuda else 16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try the benchmark")
    parser.add_argument("--device", default="cuda" if cuda else "cpu", choices=("cpu", "cuda"))
    return parser.parse_args()


def measure(
    name: str, folder: Path, dtype: str, paths: list[Path], args: argparse.Namespace
) -> dict[str, Any]:
    """Return the figures of one model in one type; both sides in turns."""
    run_theirs, what = their_operator(name, folder, args.device)
    scorer, scale = load_ours(name, folder, dtype, args)
    sources = [Source(path, path.name) for path in paths]

    def run_ours(texts: list[str]) -> list[float]:
        wanted = [[text] for text in texts]
        found = score_images(sources[: len(texts)], [scorer], [wanted], batch_size=args.batch_size)
        return [values[0] * scale for values in found[0]]

    few = min(args.their_images, len(paths))
    run_theirs(paths[:4], captions(4, seed=0))
    run_ours(captions(min(len(paths), 2 * args.batch_size), seed=0))
    theirs, ours, gaps = [], [], []
    for turn in range(1, args.rounds + 1):
        # New texts every turn: a text that is known costs nothing.
        texts = captions(len(paths), seed=turn)
        found, figures = timed(partial(run_theirs, paths[:few], texts[:few]))
        theirs.append(figures)
        values, figures = timed(partial(run_ours, texts))
        ours.append(figures)
        gaps += [abs(a - b) for a, b in zip(found, values, strict=False)]
    slow, fast = median(theirs, "rate"), median(ours, "rate")
    weights = list(scorer.model.parameters())
    size = sum(weight.numel() for weight in weights) / 2**30
    return {
        "model": name,
        "dtype": dtype,
        "their_operator": what,
        "their_images_per_second": [row["rate"] for row in theirs],
        "our_images_per_second": [row["rate"] for row in ours],
        "ratio": round(fast / slow, 1),
        "largest_gap": max(gaps),
        "spread": max(found) - min(found),
        "prepare_images_per_second": prepare_alone(scorer, sources),
        "model_images_per_second": model_alone(scorer, sources, captions(len(paths), 99), args),
        "their_gib": round(4 * size + median(theirs, "beyond_weights_gib"), 2),
        "our_gib": round(weights[0].element_size() * size + median(ours, "beyond_weights_gib"), 2),
    }


def load_ours(
    name: str, folder: Path, dtype: str, args: argparse.Namespace
) -> tuple[Classifier | ClipScorer, float]:
    """Return the batched model and what the operator multiplies its numbers by."""
    if name == "watermark":
        return Classifier(folder, dtype=dtype, device=args.device), 1.0
    clip = ClipScorer(folder, dtype=dtype, batch_size=args.batch_size, device=args.device)
    return clip, clip.logit_scale / 100.0


def prepare_alone(scorer: Classifier | ClipScorer, sources: list[Source]) -> float:
    """Return images a second that the workers alone decode, resize and hand over."""
    started = time.perf_counter()
    count = sum(
        1 for _ in prepared(sources, scorer.prepare, processes=scorer.device.type == "cuda")
    )
    return round(count / (time.perf_counter() - started), 1)


def model_alone(
    scorer: Classifier | ClipScorer,
    sources: list[Source],
    texts: list[str],
    args: argparse.Namespace,
) -> float:
    """Return images a second that the model alone takes, its images prepared beforehand."""
    batch = [scorer.prepare(decode(source)) for source in sources[: args.batch_size]]
    count = 0
    started = time.perf_counter()
    for start in range(0, min(len(texts), 4 * len(batch)), len(batch)):
        wanted = [[text] for text in texts[start : start + len(batch)]]
        count += len(scorer.score(batch[: len(wanted)], wanted))
    return round(count / (time.perf_counter() - started), 1)


def timed(run: Callable[[], list[float]]) -> tuple[list[float], dict[str, float]]:
    """Return what a run gives, its images a second, and GiB reserved beyond the weights."""
    cuda = torch.cuda.is_available()
    before = 0
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    values = run()
    rate = len(values) / (time.perf_counter() - started)
    beyond = (torch.cuda.max_memory_reserved() - before) / 2**30 if cuda else 0.0
    return values, {"rate": round(rate, 2), "beyond_weights_gib": round(beyond, 3)}


def median(rows: list[dict[str, float]], key: str) -> float:
    """Return the median over the turns."""
    return statistics.median(row[key] for row in rows)


def print_table(row: dict[str, Any], *, head: bool) -> None:
    """Print one row of the table, Markdown, as soon as it is known."""
    cells = {
        "model": row["model"],
        "dtype": row["dtype"],
        "theirs img/s": f"{statistics.median(row['their_images_per_second']):.1f}",
        "ours img/s": f"{statistics.median(row['our_images_per_second']):.1f}",
        "ratio": f"{row['ratio']:.1f}",
        "largest gap": f"{row['largest_gap']:.1e} of {row['spread']:.1e}",
        "prepare alone": f"{row['prepare_images_per_second']:.0f}",
        "model alone": f"{row['model_images_per_second']:.0f}",
        "their GPU GiB": f"{row['their_gib']:.2f}",
        "our GPU GiB": f"{row['our_gib']:.2f}",
    }
    if head:
        print("| " + " | ".join(cells) + " |")
        print("|" + " --- |" * len(cells))
    print("| " + " | ".join(cells.values()) + " |", flush=True)


def facts(args: argparse.Namespace, paths: list[Path]) -> dict[str, Any]:
    """Return what the figures depend on."""
    sizes = [path.stat().st_size for path in paths]
    return {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "cores": usable_cores(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "pillow": version("pillow"),
        "images": len(paths),
        "their_images": args.their_images,
        "batch_size": args.batch_size,
        "rounds": args.rounds,
        "mean_jpeg_bytes": round(statistics.mean(sizes)),
        "tiny": args.tiny,
    }


if __name__ == "__main__":
    main()
