"""Measure what the quality of captions costs as an arm grows.

    PYTHONPATH=scripts python benchmarks/caption_quality.py --out quality.json

Captions are drawn from a vocabulary with Zipf's frequencies and the lengths of
the seed corpus (8.7 words on average); one caption in twenty copies another,
one in twenty changes one word of another. Each size runs in a process of its
own: `measure_quality.py` on one arm, then `compare_quality.py` with a second
arm in which half of the captions are new.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from recap.curate.records import original_text
from recap.io import read_json, write_jsonl

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


def main() -> None:
    """Print and write time and memory of both steps at each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="figures as JSON")
    parser.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000, 400_000])
    args = parser.parse_args()
    rows = []
    for records in args.records:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(records, Path(folder))
        for row in rows[-2:]:
            print(json.dumps(row))
    if args.out:
        args.out.write_text(json.dumps(rows, indent=2))


def measure(records: int, folder: Path) -> list[dict[str, object]]:
    """Return the cost of measuring one arm, and of comparing two, of this size."""
    rng = np.random.default_rng(1)
    old, fresh = draw_captions(records, rng), draw_captions(records, rng)
    new = [b if number % 2 else a for number, (a, b) in enumerate(zip(old, fresh, strict=True))]
    for name, captions in (("old", old), ("new", new)):
        write_jsonl(
            folder / f"{name}.jsonl",
            (
                {"id": f"{number:09d}", "text": original_text(caption), "images": ["a.jpg"]}
                for number, caption in enumerate(captions)
            ),
        )
    steps = {
        "measure_quality": ["--arm", "new", "--records", "new.jsonl"],
        "compare_quality": [
            *("--arm", "new", "--records", "new.jsonl"),
            *("--reference", "old", "--reference-records", "old.jsonl"),
        ],
    }
    rows = []
    for step, flags in steps.items():
        outputs = [f"--{name}={step}.{name}.json" for name in ("out", "manifest", "perf")]
        command = [sys.executable, str(SCRIPTS / f"{step}.py"), *flags, *outputs]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=folder, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        perf = read_json(folder / f"{step}.perf.json")
        rows.append(
            {
                "step": step,
                "records": records,
                "seconds": perf["wall_seconds"],
                "cpu_seconds": round(cpu_seconds(after) - cpu_seconds(before), 1),
                "peak_rss_mib": perf["peak_rss_mib"],
            }
        )
    return rows


def cpu_seconds(usage: resource.struct_rusage) -> float:
    """Return the processor time of processes, system calls included."""
    return usage.ru_utime + usage.ru_stime


def draw_captions(records: int, rng: np.random.Generator, types: int = 60_000) -> list[str]:
    """Return captions of Zipf-distributed words, some copied or changed in one word."""
    chances = 1 / np.arange(1, types + 1)
    names = np.array([f"{'bcdfghklmnprstvw'[i % 16]}{spell(i)}" for i in range(types)])
    lengths = np.clip(rng.normal(8.7, 3.5, records).round().astype(int), 1, 21)
    words = names[rng.choice(types, size=int(lengths.sum()), p=chances / chances.sum())]
    captions = [list(part) for part in np.split(words, np.cumsum(lengths)[:-1])]
    for number in range(1, records):
        kind = rng.random()
        if kind < 0.1:
            captions[number] = list(captions[int(rng.integers(number))])
        if kind < 0.05:
            captions[number][int(rng.integers(len(captions[number])))] = str(rng.choice(names))
    return [" ".join(caption) for caption in captions]


def spell(number: int) -> str:
    """Return a number in letters, so that words are alphabetic tokens."""
    return "".join("aeioubdklm"[int(digit)] for digit in str(number))


if __name__ == "__main__":
    main()
