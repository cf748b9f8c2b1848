"""Training at full size on one and on two GPUs of a host, within 24 GiB each.

    PYTHONPATH=scripts python benchmarks/multi_gpu.py --folder /tmp/mgm --out multi_gpu.json

Runs ``scripts/train_stage.py`` as the rules launch it, on drawn pictures and random weights:
stage 1 and stage 2 with 20 updates on one GPU and on two, at the same global batch; then a run
on two GPUs that SIGTERM ends at a random update and one GPU continues, and the reverse. Of each
pair it compares order of samples, losses and trained weights.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mgm_lifecycle_parts import write_parts
from PIL import Image
from safetensors.torch import load_file

from recap.config.launching import TrainLaunch
from recap.config.schema import ComputeSettings

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
STAGES = ("pretrain", "finetune")  # the second starts from the first one's projector
RESUMED = ("1to2", "2to1")
WORDS = ("red", "green", "blue", "a", "dog", "cat", "on", "the", "mat", "of", "and", "sign")


@dataclass
class Job:
    """A training run on some GPUs.

    Attributes:
        name: of its folder.
        stage: pretrain or finetune.
        gpus: their numbers.
        kill_after: update after which SIGTERM is sent; 0 for never.
        process: once it runs.
    """

    name: str
    stage: str
    gpus: tuple[int, ...]
    kill_after: int = 0
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)


class Bench:
    """Folders and settings that all runs share."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Draw what the runs read."""
        self.folder: Path = args.folder.resolve()
        self.args = args
        self.started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "gemma" / "config.json").is_file():
            write_parts(self.folder, args.scale)
        self.draw(args.updates * args.batch)

    def draw(self, count: int) -> None:
        """Draw pictures and captions."""
        images, draw = self.folder / "pictures", random.Random(1)
        images.mkdir(exist_ok=True)
        noise = np.random.default_rng(0)
        for number in range(64):
            pixels = noise.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((640, 480)).save(images / f"{number}.jpg")
        entries = []
        for number in range(count):
            answer = " ".join(draw.choice(WORDS) for _ in range(draw.randrange(5, 40)))
            turns = [
                {"from": "human", "value": "<image>\nDescribe the image."},
                {"from": "gpt", "value": answer},
            ]
            image = f"{number % 64}.jpg"
            entries.append({"id": f"{number:05d}", "image": image, "conversations": turns})
        (self.folder / "train.json").write_text(json.dumps(entries))

    def out(self, job: Job) -> Path:
        """Return a run's folder."""
        return self.folder / "runs" / job.name

    def settings(self, stage: str) -> dict[str, Any]:
        """Return a stage's settings."""
        values = {
            "global_batch_size": self.args.batch,
            "micro_batch_size": self.args.micro_batch,
            "learning_rate": 1e-3 if stage == "pretrain" else 2e-4,
            "image_aspect_ratio": "square" if stage == "pretrain" else "pad",
            "gradient_checkpointing": False,
            "compile_blocks": self.args.compile,
            "dtype": self.args.dtype,
            "save_steps": 1000,
        }
        if stage == "finetune":
            values["lora"] = {"rank": 16, "alpha": 32, "dropout": 0.0}
        return values

    def start(self, job: Job) -> None:
        """Start a run, as the rule does: by ``accelerate launch`` on several GPUs."""
        out, folder = self.out(job), self.folder
        out.mkdir(parents=True, exist_ok=True)
        size = {"full": 768, "small": 128}[self.args.scale]
        launch = TrainLaunch(ComputeSettings(train_gpus=len(job.gpus))).command(self.args.threads)
        command = [sys.executable if word == "python" else word for word in shlex.split(launch)]
        command += [str(SCRIPTS / "train_stage.py"), "--stage", job.stage]
        command += ["--data", str(folder / "train.json"), "--image-root", str(folder / "pictures")]
        command += ["--language-model", str(folder / "gemma"), "--clip", str(folder / "clip")]
        command += ["--convnext", str(folder / "convnext"), "--image-size-aux", str(size)]
        command += ["--settings", json.dumps(self.settings(job.stage)), "--seed", "1"]
        command += ["--state-dir", str(out / "state"), "--out-dir", str(out / "result")]
        command += ["--perf", str(out / "perf.json")]
        if job.stage == "finetune":
            start = folder / "runs" / "pretrain-1" / "result" / "mm_projector.safetensors"
            command += ["--projector", str(start)]
        environment = dict(os.environ, CUDA_VISIBLE_DEVICES=",".join(map(str, job.gpus)))
        environment.setdefault("OMP_NUM_THREADS", "4")
        with (out / "log").open("ab") as log:
            job.process = subprocess.Popen(
                command, env=environment, cwd=SCRIPTS.parent, stdout=log, stderr=log
            )

    def made(self, job: Job) -> int:
        """Return how many updates a run has made."""
        files = list((self.out(job) / "state").glob("run-*/telemetry.jsonl"))
        return len(files[0].read_text().splitlines()) if files else 0

    def finish(self, *jobs: Job) -> None:
        """Run jobs side by side to their end, or to their SIGTERM."""
        for job in jobs:
            self.start(job)
        for job in sorted(jobs, key=lambda job: not job.kill_after):
            process: Any = job.process
            if job.kill_after:
                while process.poll() is None and self.made(job) < job.kill_after:
                    time.sleep(0.05)
                process.send_signal(signal.SIGTERM)
            code = process.wait()
            if bool(code) != bool(job.kill_after):
                print((self.out(job) / "log").read_text()[-3000:])
                raise SystemExit(f"{job} ended with {code}")
            kept = f"{self.made(job)} updates kept" if code else speed(self, job.name)
            passed = time.monotonic() - self.started
            print(f"{passed:.0f} s: {job.name}: exit code {code}, {kept}", flush=True)

    def result(self, name: str) -> dict[str, Any]:
        """Return a finished run's files."""
        out = self.folder / "runs" / name
        stage = "mm_projector" if name.startswith("pretrain") else "adapter_model"
        lines = (out / "result" / "telemetry.jsonl").read_text().splitlines()
        costs = (out / "perf.updates.jsonl").read_text().splitlines()
        return {
            "rows": [json.loads(line) for line in lines],
            "costs": [json.loads(line) for line in costs],
            "manifest": json.loads((out / "result" / "manifest.json").read_text()),
            "tensors": load_file(out / "result" / f"{stage}.safetensors"),
        }


def main() -> None:
    """Run all, compare, and write the figures."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="for parts, pictures and runs")
    cli.add_argument("--out", type=Path, required=True, help="figures as JSON")
    cli.add_argument("--updates", type=int, default=20)
    cli.add_argument("--batch", type=int, default=128, help="samples an update, over all GPUs")
    cli.add_argument("--micro-batch", type=int, default=8)
    cli.add_argument("--scale", choices=["full", "small"], default="full")
    cli.add_argument("--dtype", default="bfloat16")
    cli.add_argument("--threads", type=int, default=8, help="of a job")
    cli.add_argument("--last-stage", choices=STAGES, default=STAGES[-1], help="stages to run")
    cli.add_argument("--resume", nargs="*", choices=RESUMED, default=list(RESUMED))
    cli.add_argument("--no-compile", dest="compile", action="store_false")
    args = cli.parse_args()
    bench, draw = Bench(args), random.Random(2)
    stages = STAGES[: STAGES.index(args.last_stage) + 1]
    shutil.rmtree(bench.folder / "runs", ignore_errors=True)
    killed = {way: draw.randrange(3, args.updates - 3) for way in RESUMED}
    for stage in stages:
        bench.finish(Job(f"{stage}-1", stage, (0,)))
        bench.finish(Job(f"{stage}-2", stage, (0, 1)))
    checkpoint = resume(bench, args.resume, killed)
    pairs = [(f"{stage}-1", f"{stage}-2") for stage in stages]
    pairs += [("pretrain-1", f"pretrain-{way}") for way in args.resume]
    figures = {
        "device": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "torch": torch.__version__,
        "settings": {stage: bench.settings(stage) for stage in stages},
        "killed after": {way: killed[way] for way in args.resume},
        "checkpoint of two ranks": checkpoint,
        "speed": [speed(bench, name) for pair in pairs[: len(stages)] for name in pair],
        "equal": [compare(bench, *pair) for pair in pairs],
    }
    args.out.write_text(json.dumps(figures, indent=1))
    print(json.dumps(figures, indent=1))


def resume(bench: Bench, ways: list[str], killed: dict[str, int]) -> Any:
    """End runs by SIGTERM and let another number of GPUs go on.

    Returns:
        Folders and files of the checkpoint that two ranks left; None if no two ranks were ended.
    """
    checkpoint, rest = None, []
    if "2to1" in ways:
        bench.finish(Job("pretrain-2to1", "pretrain", (0, 1), kill_after=killed["2to1"]))
        states = sorted((bench.folder / "runs/pretrain-2to1/state").glob("run-*/checkpoint-*/*"))
        checkpoint = sorted({path.parent.name for path in states}), sorted(p.name for p in states)
        rest.append(Job("pretrain-2to1", "pretrain", (0,)))
    if "1to2" in ways:
        rest.append(Job("pretrain-1to2", "pretrain", (1,), kill_after=killed["1to2"]))
    if rest:
        bench.finish(*rest)
    if "1to2" in ways:
        bench.finish(Job("pretrain-1to2", "pretrain", (0, 1)))
    return checkpoint


def speed(bench: Bench, name: str) -> dict[str, Any]:
    """Return medians over the later half of the updates, once all is compiled."""
    costs = bench.result(name)["costs"]
    later = costs[len(costs) // 2 :]
    seconds = statistics.median(row["seconds"] for row in later)
    waited, loaded = (
        statistics.median(row[name] for row in later)
        for name in ("communication_seconds", "loading_seconds")
    )
    return {
        "run": name,
        "samples/s": round(bench.args.batch / seconds, 2),
        "seconds an update": round(seconds, 4),
        "communication, share": round(waited / seconds, 4),
        "waited for inputs, share": round(loaded / seconds, 4),
        "reserved, MiB a GPU": max(row["memory_mib"] for row in costs),
    }


def compare(bench: Bench, one: str, two: str) -> dict[str, Any]:
    """Return how far two runs are apart."""
    a, b = bench.result(one), bench.result(two)
    orders = [run["manifest"]["details"]["id_order_hash"] for run in (a, b)]
    losses = [
        abs(x["loss"] - y["loss"]) / x["loss"] for x, y in zip(a["rows"], b["rows"], strict=True)
    ]
    apart = torch.cat([(b["tensors"][k] - v).flatten() for k, v in a["tensors"].items()])
    whole = torch.cat([tensor.flatten() for tensor in a["tensors"].values()])
    return {
        "runs": [one, two],
        "same order": orders[0] == orders[1],
        "largest relative difference of a loss": max(losses),
        "of the last loss": losses[-1],
        "relative distance of the trained weights": float(apart.norm() / whole.norm()),
        "losses": [[round(row["loss"], 4) for row in run["rows"]] for run in (a, b)],
    }


if __name__ == "__main__":
    main()
