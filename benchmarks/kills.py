"""Kill a training run again and again; it must end with the bytes of an undisturbed one.

A micro stage 2 (LoRA with dropout, both kinds of samples, held-out evaluations, a checkpoint
every second update) is killed at random times by SIGKILL, SIGTERM or SIGUSR1 and started again
until it ends. Then every declared output is compared with those of a run that was left alone;
of the manifest, all but its times.

    PYTHONPATH=scripts python benchmarks/kills.py --runs 20

Exits with 1 if a byte differs, a process ends with a code it should not end with, or a stop by
SIGTERM or SIGUSR1 loses a finished update.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from processes import ROOT, markdown

from recap.hashing import sha256_file
from recap.io import read_json, read_jsonl
from recap.train.limits import SLURM_END, SLURM_JOB

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR1)
SHARES = (2, 1, 1)  # SIGKILL is the one that nothing can prepare for
PHASES = ("start", "updates", "checkpoint", "results")
# A phase is waited for and then killed at a random moment of it; "any" is a random moment of all.
# Seconds after its beginning, on average; a checkpoint is written in some 30 ms.
AIMS = {"any": 0.0, "checkpoint": 0.008, "updates": 0.3, "results": 0.02}
INTERRUPTED = 75
WEIGHTS = ROOT / "scripts/recap/demo/weights"
WORLD = {
    "records": 4,
    "sft_samples": 40,
    "questions": 4,
    "pope_images": 0,
    "mmbench_questions": 0,
    "image_min_side": 64,
    "image_max_side": 64,
}
SETTINGS = {
    "global_batch_size": 8,
    "micro_batch_size": 2,
    "learning_rate": 1e-3,
    "max_length": 256,
    "dtype": "float32",
    "gradient_checkpointing": False,
    "image_aspect_ratio": "square",
}
TUNING = {
    **SETTINGS,
    "image_aspect_ratio": "pad",
    "group_by_modality_length": True,
    "epochs": 3,
    "save_steps": 2,
    "lora": {"rank": 4, "alpha": 8, "dropout": 0.1},
}

# A fork server imports the heavy libraries once, so that kills hit training, not imports.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "torch",
        "peft",
        "transformers.trainer",
        "transformers.models.auto.modeling_auto",
        "transformers.models.clip.modeling_clip",
        "transformers.models.gemma.modeling_gemma",
    ]
)


@dataclass
class Story:
    """What happened to one run.

    Attributes:
        kills: signal and phase of each.
        starts: processes it took.
        wrong: what should not have happened.
    """

    kills: list[tuple[str, str]] = field(default_factory=list)
    starts: int = 0
    wrong: list[str] = field(default_factory=list)


class Stage:
    """The run that is killed: its command and its folders, which each attempt uses again."""

    def __init__(self, folder: Path) -> None:
        """Build the data and train stage 1."""
        self._began = 0.0
        self.run = folder / "run"
        world = folder / "world"
        script, settings = str(ROOT / "scripts/build_demo_world.py"), json.dumps(WORLD)
        subprocess.run(
            [sys.executable, script, "--out", str(world), "--settings", settings], check=True
        )
        samples = read_json(world / "sft.json")
        for name, part in (("train", samples[:32]), ("asked", samples[32:])):
            (folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
        stage_1 = folder / "stage_1"
        data = ("--data", str(folder / "train.json"), "--image-root", str(world))
        base = (
            *("--language-model", str(WEIGHTS / "gemma-micro"), "--conversation", "gemma"),
            *("--clip", str(WEIGHTS / "clip-micro"), "--convnext", str(WEIGHTS / "convnext-micro")),
            *("--image-size-aux", "128", "--seed", "1"),
        )
        self._command = [
            *("--stage", "finetune", *data, *base, "--settings", json.dumps(TUNING)),
            *("--projector", str(stage_1 / "out/mm_projector.safetensors")),
            *("--held-out", f"asked={folder / 'asked.json'}", "--held-out-every", "4"),
            *places(self.run),
        ]
        first = ["--stage", "pretrain", *data, *base, "--settings", json.dumps(SETTINGS)]
        process = start([*first, *places(stage_1)], folder / "stage_1.log")
        process.join()
        if process.exitcode:
            raise SystemExit((folder / "stage_1.log").read_text(encoding="utf-8"))

    def start(self, log: Path) -> Any:
        """Start an attempt."""
        self._began = time.time()
        return start(self._command, log)

    def _new(self, pattern: str) -> list[Path]:
        """Return what this attempt has written: a killed one leaves files behind."""
        return [p for p in self.run.glob(pattern) if p.stat().st_mtime > self._began]

    def phase(self) -> str:
        """Return what the run is at, as far as its files tell."""
        try:
            if self._new("out/*"):
                return "results"
            if self._new("state/run-*/.checkpoint-*"):
                return "checkpoint"
            logs = self._new("state/run-*/telemetry.jsonl")
            return "updates" if logs and logs[0].stat().st_size else "start"
        except FileNotFoundError:  # the run has just moved what was found
            return self.phase()

    def lost(self) -> int:
        """Return how many updates of this attempt no checkpoint holds."""
        logs = self._new("state/run-*/telemetry.jsonl")
        if not logs:
            return 0
        found = self.run.glob("state/run-*/checkpoint-*")
        saved = max((int(path.name.rpartition("-")[2]) for path in found), default=0)
        return len(read_jsonl(logs[0])) - saved

    def outputs(self) -> dict[str, str]:
        """Return a hash, or what it holds but times, of each declared output."""
        manifest = read_json(self.run / "out/manifest.json")
        manifest.pop("volatile")
        found = {"manifest.json": json.dumps(manifest, sort_keys=True)}
        for output in manifest["outputs"].values():
            name = Path(output["path"]).name
            found[name] = sha256_file(self.run / "out" / name)
        return found


def places(folder: Path) -> list[str]:
    """Return the options that say where a run writes."""
    state, out = str(folder / "state"), str(folder / "out")
    return ["--state-dir", state, "--out-dir", out, "--perf", str(folder / "perf.json")]


def enter(arguments: list[str], log: str) -> None:
    """Be the process of a run."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in (SLURM_END, SLURM_JOB):  # the end of this benchmark's job is not the run's
        os.environ.pop(name, None)
    with Path(log).open("a", encoding="utf-8") as stream:
        sys.stderr = stream
        import train_stage
        from recap.cli import run_cli

        run_cli(train_stage.main, train_stage.parser(), arguments)


def start(arguments: list[str], log: Path) -> Any:
    """Start a run in a process of its own."""
    process = _CONTEXT.Process(target=enter, args=(arguments, str(log)))
    process.start()
    return process


def disturb(stage: Stage, log: Path, draw: random.Random, kills: int, duration: float) -> Story:
    """Start the run and kill it, ``kills`` times at most, until it ends by itself."""
    story = Story()
    while True:
        process = stage.start(log)
        story.starts += 1
        killed = len(story.kills) < kills and kill(stage, process, draw, duration)
        process.join(300)
        if killed:
            story.kills.append(killed)
        problem = judge(stage, process.exitcode, killed[0] if killed else None)
        if problem:
            story.wrong.append(problem)
            process.kill()
            return story
        if process.exitcode == 0:
            return story


def kill(stage: Stage, process: Any, draw: random.Random, duration: float) -> Any:
    """Kill a process at a random moment; return the signal and the phase, None if it had ended."""
    number, aim = draw.choices(SIGNALS, SHARES)[0], draw.choice(list(AIMS))
    delay = draw.uniform(0, duration) if aim == "any" else draw.expovariate(1 / AIMS[aim])
    while aim != "any" and process.is_alive() and stage.phase() != aim:
        time.sleep(0.001)
    process.join(delay)
    if not process.is_alive():
        return None
    phase = stage.phase()
    os.kill(process.pid, number)
    return number.name, phase


def judge(stage: Stage, code: int | None, name: str | None) -> str | None:
    """Return what is wrong with how a process ended, None if nothing is."""
    number = signal.Signals[name] if name else None
    # A signal may come before it is caught, or too late to matter.
    allowed = {0} if number is None else {0, -number}
    if number in (signal.SIGTERM, signal.SIGUSR1):
        allowed.add(INTERRUPTED)
    if code not in allowed:
        return f"exit code {code} after {name}"
    if code == INTERRUPTED and stage.lost():
        return f"{stage.lost()} updates lost by {name}"
    return None


def main() -> None:
    """Kill runs and compare what they leave."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="example:\n  PYTHONPATH=scripts python benchmarks/kills.py --runs 20",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=20, help="runs to disturb")
    parser.add_argument("--kills", type=int, default=3, help="kills of a run, at most")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and signals")
    parser.add_argument("--folder", type=Path, help="for data and logs; a temporary one if not")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        stories, counts = play(folder, args.runs, args.kills, random.Random(args.seed))
    print(markdown([{"signal": name, **row} for name, row in counts.items()]))
    wrong = sum(bool(story.wrong) for story in stories)
    kills = sum(len(story.kills) for story in stories)
    print(f"\n{len(stories)} runs, {kills} kills: {wrong} runs ended otherwise than undisturbed")
    sys.exit(1 if wrong else 0)


def play(
    folder: Path, runs: int, kills: int, draw: random.Random
) -> tuple[list[Story], dict[str, dict[str, int]]]:
    """Return what happened to each run, and how many kills of each kind hit each phase."""
    stage, stories = Stage(folder), []
    started = time.monotonic()
    stage.start(folder / "undisturbed.log").join()
    duration = time.monotonic() - started
    expected = stage.outputs()
    counts: Counter[tuple[str, str]] = Counter()
    for number in range(1, runs + 1):
        shutil.rmtree(stage.run)
        story = disturb(stage, folder / f"run_{number}.log", draw, kills, duration)
        if not story.wrong:
            found = stage.outputs()
            names = expected.keys() | found.keys()
            story.wrong += sorted(n for n in names if found.get(n) != expected.get(n))
        counts.update(story.kills)
        stories.append(story)
        told = ", ".join(f"{name} in {phase}" for name, phase in story.kills)
        verdict = f"DIFFERENT: {'; '.join(story.wrong)}" if story.wrong else "the same"
        print(f"run {number}: {story.starts} starts ({told}): {verdict}", flush=True)
    return stories, {
        number.name: {phase: counts[number.name, phase] for phase in PHASES} for number in SIGNALS
    }


if __name__ == "__main__":
    main()
