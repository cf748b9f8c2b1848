"""The workflow's own training rule, submitted to a real SLURM by Snakemake's plugin."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import slurm_client as client
from slurm_cluster import PARTITION

from recap.io import read_json, read_jsonl

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("slurm")]

RUN = "results/tests/runs/a/seed1/pretrain"
STATE = "results/tests/state/pretrain/a.seed1"

# what rules/common.smk takes from a configuration, for one arm with micro models
SNAKEFILE = """
from types import SimpleNamespace

from scripts.recap.config.launching import TrainLaunch
from scripts.recap.config.schema import ComputeSettings
from scripts.recap.config.data_paths import as_json
from scripts.recap.train_settings import StageSettings
from scripts.recap.versions import STAGE_VERSIONS

COMPUTE = ComputeSettings(**config["compute"])
LAUNCH = TrainLaunch(COMPUTE)
SETTINGS = SimpleNamespace(
    train=SimpleNamespace(pretrain=StageSettings(**config["settings"]), tracker="none")
)


class HELD_OUT:
    sets = staticmethod(lambda stage: {})
    flags = staticmethod(lambda stage: "")


class PREFLIGHT:
    reports = staticmethod(lambda kind: [])


class WIRING:
    base_manifests = staticmethod(lambda: {})
    base_flags = staticmethod(lambda: config["base_flags"])
    train_data = staticmethod(lambda arm: config["data"])
    train_seed = staticmethod(lambda arm, seed: int(seed))
    image_root = staticmethod(lambda row: config["image_root"])


def corpus_row(wildcards):
    return None


def megabytes(count):
    return count


def minutes(count):
    return count


include: "rules/pretrain.smk"
"""


@pytest.fixture
def project(world, tmp_path: Path) -> Path:
    for name in ("scripts", "envs", "profiles"):
        (tmp_path / name).symlink_to(client.ROOT / name)
    text = (client.ROOT / "rules/train.smk").read_text()
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules/pretrain.smk").write_text(text.split("\n\n\n")[0] + "\n")
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    parts = world.parts
    config = {
        "settings": world.settings(micro_batch_size=2, epochs=6),
        "data": str(world.captions),
        "image_root": str(world.images),
        "base_flags": (
            f"--language-model {parts.language_model} --clip {parts.clip} "
            f"--convnext {parts.convnext} --image-size-aux {parts.image_size_aux} "
            f"--conversation {parts.conversation}"
        ),
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def start(project: Path, **compute: int) -> subprocess.Popen[str]:
    """Start Snakemake with the shipped profile, and with what this cluster needs besides."""
    compute = {"gpu_threads": 1, "model_mem_mb": 2000, "train_runtime_minutes": 10, **compute}
    (project / "compute.json").write_text(json.dumps({"compute": compute}))
    return client.snakemake(
        project,
        *("--configfile", "config.json", "compute.json", "--", f"{RUN}/manifest.json"),
        partition=PARTITION,
        profile="--workflow-profile",
    )


def updates(project: Path) -> int:
    """Return how many updates the running job has made."""
    return max((len(read_jsonl(p)) for p in (project / STATE).glob("run-*/tele*.jsonl")), default=0)


def test_a_job_over_two_nodes_is_stopped_and_its_retry_goes_on(project: Path) -> None:
    snakemake = start(project, train_nodes=2, train_gpus=2)
    try:
        client.wait_for(lambda: updates(project) >= 3)
        (job,) = client.live_jobs()
        shown = client.run("scontrol", "show", "job", job, "--oneliner")
        client.run("scancel", "--signal=USR1", job)
        output = snakemake.communicate(timeout=300)[0]
    finally:
        snakemake.kill()
    asked = dict(
        re.findall(r"\b(NumNodes|NumTasks|NtasksPerN\S*|CPUs/Task|TresPerNode)=(\S+)", shown)
    )
    assert asked["NumNodes"] == "2"
    assert asked["NumTasks"] == "4"
    assert asked["CPUs/Task"] == "1"
    assert asked["TresPerNode"] == "gres:gpu:2"
    assert snakemake.returncode == 0, output
    assert "Trying to restart job" in output
    assert re.search(r"stopped by SIGUSR1 after update \d+ of 24", output)
    log = (project / "logs/tests/pretrain/a.seed1.log").read_text()
    assert re.search(r"continuing after update \d+ ", log)
    assert read_json(project / RUN / "manifest.json")["details"]["plan"]["world_size"] == 4
    rows = read_jsonl(project / RUN / "telemetry.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 25))


def test_a_job_on_one_node_is_started_by_accelerate(project: Path) -> None:
    snakemake = start(project, train_gpus=2)
    try:
        output = snakemake.communicate(timeout=300)[0]
    finally:
        snakemake.kill()
    assert snakemake.returncode == 0, output
    assert read_json(project / RUN / "manifest.json")["details"]["plan"]["world_size"] == 2
