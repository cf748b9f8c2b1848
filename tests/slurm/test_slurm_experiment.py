"""The smoke experiment's data, from drawing its world to a training set, on a real SLURM."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import slurm_client as client
from slurm_cluster import NODES, PARTITION

from recap.io import read_json

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]

TARGET = "results/smoke/arms/blip2_enhanced/train.json"


def snakemake(folder: Path, *more: str) -> str:
    """Run Snakemake to its end with the shipped profile and this cluster's names."""
    command = [
        *(sys.executable, "-m", "snakemake", "--profile", "profiles/slurm"),
        *("--config", "experiment=smoke", "--jobs", "4", "--slurm-keep-successful-logs"),
        *("--default-resources", "mem_mb=1000", "runtime=30", "slurm_account=lab"),
        *(f"slurm_partition={PARTITION}", "--slurm-init-seconds-before-status-checks", "2"),
        *("--latency-wait", "5", *more, "--", TARGET),
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        env=client.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def copy_repository(target: Path) -> None:
    """Copy what git would: tracked files, and new ones that are not ignored."""
    listed = client.run("git", "ls-files", "-co", "--exclude-standard")
    for name in listed.splitlines():
        if (client.ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(client.ROOT / name, target / name)


def test_the_data_of_an_experiment_are_made_on_the_cluster(tmp_path: Path) -> None:
    copy_repository(tmp_path)
    planned = snakemake(tmp_path, "--dry-run")
    jobs = int(planned.split("total", 1)[1].split()[0])
    snakemake(tmp_path)
    assert len(read_json(tmp_path / TARGET)) > 50
    assert not (tmp_path / "results/smoke/failures.json").exists()
    assert "Nothing to be done" in snakemake(tmp_path, "--dry-run")
    listed = client.run("sacct", "-X", "-n", "-P", "--format=Comment,NodeList,State,WorkDir")
    ours = [line.split("|") for line in listed.splitlines() if line.endswith(str(tmp_path))]
    assert {state for _, _, state, _ in ours} == {"COMPLETED"}
    assert {node for _, node, _, _ in ours} == set(NODES)
    # the shards of splitting, of selecting and of choosing captions shared one submission each
    assert len(ours) < jobs
    groups = ("rule_split_split_shard", "rule_select_select_shard")
    assert sorted(c for c, *_ in ours if c in groups) == sorted(groups)
