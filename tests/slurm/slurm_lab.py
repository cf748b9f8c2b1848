"""A copy of the repository with a small experiment, run on the tests' SLURM as a user would."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import slurm_client as client
from slurm_cluster import PARTITION

from recap.cluster.records import Failure, read_failures
from recap.io import read_jsonl

# The smoke experiment with one seed, and with a second stage that is long enough to disturb.
EXPERIMENT = """
extends: smoke
title: "Smoke run on the tests' cluster"
seeds: [1]
evaluation_shards: 2
controls: []
funnel_arms: []
held_out:
  records: 0
  instructions: 0
curate:
  shard_size: 150
train:
  finetune:
    epochs: 6
    save_steps: 20
compute:
  gpus: 1
  train_gpus: 1
merge:
  parity_prompts: 1
  parity_max_new_tokens: 2
"""
RESULTS = "results/cluster"
ARM = "blip2_enhanced"
RUN = f"{RESULTS}/runs/{ARM}/seed1"
STATE = f"{RESULTS}/state/finetune/{ARM}.seed1"
# What an experiment finds; beside it lie times, job numbers and logs.
FOUND = (
    *("arms/*/train.json", "runs/**/*.safetensors", "runs/**/telemetry.jsonl"),
    *("eval/**/scores.jsonl", "compare/comparison.json", "report/verdict.txt"),
)


class Lab:
    """One folder in which Snakemake runs again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copy_repository(folder)
        (folder / "config/experiments/cluster.yaml").write_text(EXPERIMENT)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *more: str, target: str = "all") -> subprocess.Popen[str]:
        """Start Snakemake with the shipped profile and this cluster's names."""
        process = client.snakemake(
            self.folder,
            *("--config", "experiment=cluster", "--jobs", "4", "--slurm-keep-successful-logs"),
            *(*more, "--", target),
            partition=PARTITION,
        )
        self.processes.append(process)
        return process

    def run(self, *more: str, target: str = "all") -> str:
        """Run Snakemake to its end, which is to be a good one."""
        return client.end_of_snakemake(self.start(*more, target=target))

    def found(self) -> dict[str, str]:
        """Return the hash of every file that says what the experiment found."""
        base = self.folder / RESULTS
        return {
            str(path.relative_to(base)): hashlib.sha256(path.read_bytes()).hexdigest()
            for pattern in FOUND
            for path in sorted(base.glob(pattern))
        }

    def forget_training(self) -> None:
        """Remove the second stage's result of one arm, so that it is trained again."""
        for folder in (RUN + "/finetune", STATE):
            shutil.rmtree(self.folder / folder, ignore_errors=True)

    def forget_what_follows(self) -> None:
        """Remove what is made of that arm's second stage, up to the report."""
        for path in (self.folder / RUN).iterdir():
            if path.is_file():
                path.unlink()
        for folder in (f"{RUN}/merged", f"{RESULTS}/eval/{ARM}", f"{RESULTS}/report"):
            shutil.rmtree(self.folder / folder)

    def wait_for_update(self, update: int) -> tuple[str, str]:
        """Wait until the second stage has made so many updates; return its job and its node."""
        state = self.folder / STATE
        telemetry = lambda: [*state.glob("run-*/telemetry.jsonl")]  # noqa: E731
        client.wait_for(lambda: any(len(read_jsonl(path)) >= update for path in telemetry()))
        listed = client.run("squeue", "--noheader", "--states=RUNNING", "--format=%A %N %k")
        (found,) = (line.split()[:2] for line in listed.splitlines() if "rule_finetune" in line)
        return found[0], found[1]

    def training_log(self) -> str:
        """Return the log of the second stage's last attempt."""
        return (self.folder / f"logs/cluster/finetune/{ARM}.seed1.log").read_text()

    def failures(self) -> list[Failure]:
        """Return the failures of the last run."""
        return read_failures(self.folder / RESULTS / "failures.json")

    def accounted(self, rule: str) -> list[dict[str, str]]:
        """Return what SLURM accounts for a rule's jobs, each attempt, oldest first.

        The accounting is some seconds late: it is waited for until all of it has ended.
        """
        client.wait_for(lambda: not self._under_way(rule))
        return self._accounted(rule)

    def _under_way(self, rule: str) -> bool:
        rows = self._accounted(rule)
        return not rows or any(row["State"] in client.ALIVE for row in rows)

    def _accounted(self, rule: str) -> list[dict[str, str]]:
        fields = ("JobIDRaw", "State", "NodeList", "ReqCPUS", "Start", "WorkDir", "Comment")
        listed = client.run(
            *("sacct", "--allocations", "--duplicates", "--noheader", "--parsable2"),
            *("--starttime=now-1days", f"--format={','.join(fields)}"),
        )
        rows = [dict(zip(fields, line.split("|", 6), strict=True)) for line in listed.splitlines()]
        ours = [
            row
            for row in rows
            if row["WorkDir"] == str(self.folder) and row["Comment"].startswith(f"rule_{rule}")
        ]
        return sorted(ours, key=lambda row: row["Start"])

    def pretend_preflight(self) -> None:
        """Make the models, and write reports about nodes whose cards are make-believe."""
        self.run("--until", "register_local_model")
        for kind in ("model", "train"):
            path = self.folder / RESULTS / f"preflight/{kind}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"nodes": []}))


def copy_repository(target: Path) -> None:
    """Copy what git would: tracked files, and new ones that are not ignored."""
    listed = client.run("git", "ls-files", "-co", "--exclude-standard")
    for name in listed.splitlines():
        if (client.ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(client.ROOT / name, target / name)
