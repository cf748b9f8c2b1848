"""Measure how fast the known-answer world is drawn, on one core.

    python benchmarks/demo_world.py --out demo_world.json

Text is a scene, its caption, the corrupted caption and a question with ten
answers; a picture adds rendering and JPEG encoding; a record adds its flaws and
the writing of its file.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from recap.demo.captions import caption
from recap.demo.corpus import build_corpus
from recap.demo.corrupt import choose_corruption, corrupt
from recap.demo.pictures import draw_picture
from recap.demo.questions import sample_questions, ten_answers
from recap.demo.scene import sample_scene
from recap.demo.settings import CorruptionRates, WorldSettings
from recap.demo.streams import Stream, generator
from recap.demo.tree import Tree

RATES = CorruptionRates()


def main() -> None:
    """Measure each kind of sample at each size, and print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="figures as JSON")
    parser.add_argument("--samples", type=int, default=2000, help="samples a measurement")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest one counts")
    args = parser.parse_args()
    rows = [measure("text", write_text, args)]
    for low, high in ((224, 448), (224, 320), (96, 144)):

        def draw(count: int, low: int = low, high: int = high) -> None:
            for index in range(count):
                draw_picture(1, Stream.RECORD, index, low, high)

        rows.append(measure(f"picture, {low} to {high} pixels", draw, args))
    rows.append(measure("record on disk, 224 to 448 pixels", write_records, args))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2))


def measure(name: str, work: Callable[[int], None], args: argparse.Namespace) -> dict[str, object]:
    """Return the samples a second of CPU time, after a warm-up that fills the caches."""
    work(min(200, args.samples))
    seconds = []
    for _ in range(args.repeats):
        started = time.process_time()
        work(args.samples)
        seconds.append(time.process_time() - started)
    row = {
        "what": name,
        "samples": args.samples,
        "samples_per_cpu_second": round(args.samples / min(seconds)),
        "slowest": round(args.samples / max(seconds)),
    }
    print(row, flush=True)
    return row


def write_text(count: int) -> None:
    """Draw ``count`` scenes and say everything about them that is text."""
    for index in range(count):
        rng = generator(1, Stream.CAPTION, index)
        scene = sample_scene(rng)
        kind = choose_corruption(RATES, float(rng.random()))
        corrupt(kind, caption(scene, rng), scene, rng)
        ten_answers(sample_questions(scene, rng, 1)[0], rng)


def write_records(count: int) -> None:
    """Build a corpus of ``count`` records in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        build_corpus(WorldSettings(records=count, bad_lines=0), Tree(folder, ["images"]))


if __name__ == "__main__":
    main()
