"""Build, save, check, merge and gate a full-size MGM-2B with random weights.

Shows that the LoRA life-cycle works at full size, and what it costs: wall time
and peak memory of each command. Random weights say nothing about answers;
sizes, names, sums and speed are the real ones.

    python benchmarks/mgm_lifecycle.py --folder /tmp/mgm --out lifecycle.json

Check and merges run side by side, then the parity gates do, each a process of
its own with its share of the cores: seconds are those of a busy machine. The
figures are written after every command that ends.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from mgm_lifecycle_parts import PICTURES, SCALES

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Step:
    """One command, and what was seen of its process.

    Attributes:
        label: in the table.
        command: with its arguments.
        perf: JSON that the process writes of itself: GPU memory as torch saw it.
        report: JSON of a gate, whose ``passed`` is noted.
        anonymous: peak of its anonymous memory, in KiB.
    """

    label: str
    command: list[str]
    perf: Path | None = None
    report: Path | None = None
    anonymous: int = field(default=0, init=False)


class Figures:
    """Rows of the table, written whenever there is one more."""

    def __init__(self, out: Path, scale: str) -> None:
        """Note the machine and the versions."""
        self._out = out
        self._rows: list[dict[str, Any]] = []
        self._facts: dict[str, Any] = {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "cores": os.cpu_count(),
            "scale": scale,
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("torch", "transformers", "peft")},
            "memory": "peak_rss_gib counts mapped files, peak_anonymous_gib does not; "
            "peak_gpu_gib is what torch reserved, the driver's context comes on top",
            "side_by_side": [],
        }

    def add_group(self, steps: list[Step]) -> None:
        """Note that these ran at the same time."""
        self._facts["side_by_side"].append([step.label for step in steps])

    def add(self, row: dict[str, Any]) -> None:
        """Print a row and write all of them."""
        print(row, flush=True)
        self._rows.append(row)
        self._out.write_text(json.dumps(self._facts | {"rows": self._rows}, indent=2) + "\n")


def main() -> None:
    """Run every step and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder, 40 GB")
    parser.add_argument("--out", type=Path, required=True, help="figures as JSON")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16"])
    parser.add_argument("--scale", choices=sorted(SCALES), default="full", help="size of the parts")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    figures = Figures(args.out, args.scale)
    for name, label in (("parts", "build parts"), ("adapter", "build model, save adapter")):
        run_together([own_step(name, label, args.folder, args.scale)], figures)
    run_together(weight_steps(args.folder, args.scale, args.dtypes), figures)
    run_together(gate_steps(args.folder, args.scale, args.dtypes), figures)


def own_step(name: str, label: str, folder: Path, scale: str) -> Step:
    """Return a step of ``mgm_lifecycle_parts.py``."""
    source = Path(__file__).with_name("mgm_lifecycle_parts.py")
    command = [sys.executable, str(source), name, "--folder", str(folder), "--scale", scale]
    return Step(label, command, perf=folder / f"perf-{name}.json")


def weight_steps(folder: Path, scale: str, dtypes: list[str]) -> list[Step]:
    """Return the check of the adapter and one merge a type."""
    adapter, base = str(folder / "adapter"), base_flags(folder, scale)
    steps = [Step("check_lora_model", script("check_lora_model", adapter, *base))]
    for dtype in dtypes:
        out = ("--output-path", str(folder / f"merged-{dtype}"), *settings(dtype))
        merge = script("merge_lora_weights", "--lora-path", adapter, *base, *out)
        steps.append(Step(f"merge_lora_weights {dtype}", merge))
    return steps


def gate_steps(folder: Path, scale: str, dtypes: list[str]) -> list[Step]:
    """Return one parity gate a type."""
    steps = []
    for dtype in dtypes:
        perf, report = (folder / f"{name}-{dtype}.json" for name in ("perf", "parity"))
        gate = script(
            "check_parity",
            *("--merged", str(folder / f"merged-{dtype}"), "--adapter", str(folder / "adapter")),
            *base_flags(folder, scale),
            *settings(dtype),
            *("--images-root", str(folder / "images")),
            *("--questions", str(folder / "questions.jsonl")),
            *("--out", str(report), "--perf", str(perf)),
        )
        steps.append(Step(f"check_parity {dtype}", gate, perf, report))
    return steps


def settings(dtype: str) -> tuple[str, str]:
    """Return the option with a merge's settings."""
    return ("--settings", json.dumps({"dtype": dtype, "parity_prompts": PICTURES}))


def script(name: str, *arguments: str) -> list[str]:
    """Return the command of an entry script."""
    return [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]


def base_flags(folder: Path, scale: str) -> list[str]:
    """Return the flags that name the base's parts."""
    names = {"--language-model": "gemma", "--clip": "clip", "--convnext": "convnext"}
    flags = [part for flag, name in names.items() for part in (flag, str(folder / name))]
    return [*flags, "--image-size-aux", str(SCALES[scale]["image_size_aux"])]


def run_together(steps: list[Step], figures: Figures) -> None:
    """Run commands at the same time; add a row for each as it ends.

    Raises:
        SystemExit: when all have ended, if one failed.
    """
    if len(steps) > 1:
        figures.add_group(steps)
    threads = max(1, (os.cpu_count() or 1) // len(steps))
    lock, failed = threading.Lock(), []

    def run(step: Step) -> None:
        row = measure(step, threads)
        with lock:
            figures.add(row)
            if row["exit_code"]:
                failed.append(step.label)

    workers = [threading.Thread(target=run, args=(step,)) for step in steps]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def measure(step: Step, threads: int) -> dict[str, Any]:
    """Run one command; return its wall time and peak memory."""
    paths = f"{ROOT / 'scripts'}:{os.environ.get('PYTHONPATH', '')}"
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}
    started, ended = time.perf_counter(), threading.Event()
    process = subprocess.Popen(step.command, env=environment)
    watcher = threading.Thread(target=watch_anonymous, args=(process.pid, step, ended))
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    row = {
        "step": step.label,
        "exit_code": os.waitstatus_to_exitcode(status),
        "seconds": round(seconds, 1),
        "threads": threads,
        "peak_rss_gib": round(usage.ru_maxrss / 2**20, 2),
        "peak_anonymous_gib": round(step.anonymous / 2**20, 2),
        "peak_gpu_gib": peak_gpu(step.perf),
    }
    if step.report is not None and step.report.is_file():
        report = json.loads(step.report.read_text())
        names = ("passed", "tokens_equal", "unmerged_tolerance", "first_diverging_module")
        row |= {name: report.get(name) for name in names}
    return row


def watch_anonymous(pid: int, step: Step, ended: threading.Event) -> None:
    """Keep the peak of a process's anonymous memory, which no counter of the system keeps."""
    while not ended.wait(0.02):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            if line.startswith("RssAnon:"):
                step.anonymous = max(step.anonymous, int(line.split()[1]))


def peak_gpu(perf: Path | None) -> float | None:
    """Return the GPU memory in GiB that a process reserved, or None if it used none."""
    if perf is None or not perf.is_file():
        return None
    reserved = json.loads(perf.read_text()).get("gpu_peak_reserved_mib")
    return None if reserved is None else round(reserved / 1024, 2)


if __name__ == "__main__":
    main()
