"""More ways a cluster fails, on a real SLURM, with the shipped profile: boring each time.

The jobs keep their state as training does. After each fault the result is that of an
undisturbed run, no step that was done is done again, and what happened is written down.
"""

import hashlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_client as client
from slurm_cluster import NODES, PARTITION, Cluster

from recap.cluster.records import Failure, read_failures

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]

SNAKEFILE = f"""
include: "{client.ROOT / "tests/supervised.smk"}"

PARTS = config["parts"].split("+")

rule whole:
    default_target: True
    input: expand("{{part}}.txt", part=PARTS)
    output: "whole.txt"
    log: "whole.log"
    shell: "cat {{input}} >{{output}} 2>{{log}}"

rule part:
    output: "{{part}}.txt"
    log: "{{part}}.log"
    resources:
        gpu=config["gpu"],
        runtime=config["runtime"],
        mem_mb=growing("memory", config["mem_mb"]),
    params:
        options=config["options"],
    shell:
        "PYTHONPATH=scripts python work.py {{wildcards.part}} {{params.options}} "
        "--out {{output}} 2>{{log}}"
"""


class Project:
    """A workflow of some long jobs and a short one, and the Snakemakes that run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("scripts", "profiles"):
            (folder / name).symlink_to(client.ROOT / name)
        (folder / "work.py").symlink_to(client.ROOT / "tests/slurm/work.py")
        (folder / "Snakefile").write_text(SNAKEFILE)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, parts: str = "a", steps: int = 20, **config) -> subprocess.Popen[str]:
        """Start Snakemake with the shipped profile and this cluster's names."""
        seconds, options = config.pop("seconds", 0.5), config.pop("options", "")
        values = {"gpu": 0, "runtime": 10, "mem_mb": 1000, "parts": parts, **config}
        values["options"] = f"--steps {steps} --seconds {seconds} {options}"
        process = client.snakemake(
            self.folder,
            *("--config", *(f"{name}={value}" for name, value in values.items())),
            partition=PARTITION,
        )
        self.processes.append(process)
        return process

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_step(self, step: int, part: str = "a") -> None:
        client.wait_for(lambda: len(self.lines(f"{part}.steps")) >= step)

    def job(self, part: str = "a") -> str:
        """Return the number of the job that works on a part."""
        return self.lines(f"{part}.attempts")[-1].split()[0]

    def failures(self) -> list[Failure]:
        return read_failures(self.folder / "failures.json")

    def kinds(self) -> list[str]:
        return [one.kind for one in self.failures()]

    def check_result(self, *, steps: int = 20, parts: str = "a") -> None:
        """The result is that of an undisturbed run, and no step was done twice."""
        chain = ""
        for step in range(steps):
            chain = hashlib.sha256(f"{chain}{step}".encode()).hexdigest()
        names = parts.split("+")
        assert self.lines("whole.txt") == [chain] * len(names)
        for name in names:
            assert self.lines(f"{name}.steps") == [str(step + 1) for step in range(steps)]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    try:
        yield project
    finally:
        client.clear_queue(project.processes)


def test_a_cancelled_job_goes_on(project: Project) -> None:
    run = project.start()
    project.wait_for_step(3)
    client.run("scancel", project.job())
    output = client.end_of_snakemake(run)
    project.check_result()
    assert project.kinds() == ["cancelled"]
    assert "1 attempt failed and passed later (1 x cancelled)" in output


@pytest.mark.slow
def test_a_drained_node_takes_no_new_job(project: Project) -> None:
    run = project.start(parts="a+b", gpu=2, steps=30)
    project.wait_for_step(3, "a")
    project.wait_for_step(3, "b")
    node = project.lines("a.attempts")[-1].split()[1]
    client.run("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    try:
        client.run("scancel", project.job("a"))
        client.end_of_snakemake(run)
    finally:
        client.run("scontrol", "update", f"nodename={node}", "state=resume")
    project.check_result(steps=30, parts="a+b")
    nodes = [line.split()[1] for line in project.lines("a.attempts")]
    assert nodes == [node, next(other for other in NODES if other != node)]


@pytest.mark.slow
def test_a_job_killed_for_its_memory_gets_more(project: Project) -> None:
    output = client.end_of_snakemake(project.start(mem_mb=700, options="--megabytes 900", steps=8))
    project.check_result(steps=8)
    assert project.kinds() == ["out_of_memory"]
    assert "(1 x out_of_memory)" in output
    assert len(project.lines("a.attempts")) == 2


@pytest.mark.slow
def test_input_that_is_wrong_is_not_tried_again(project: Project) -> None:
    output = client.end_of_snakemake(project.start(options="--steps many"), code=1)
    (failure,) = project.failures()
    assert (failure.kind, failure.exit_code, failure.attempt) == ("bad_data", 2, 1)
    assert failure.node in NODES
    assert "invalid int value: 'many'" in "\n".join(failure.log_tail)
    assert "1 job failed:" in output
    assert "part (part=a)\n    class     bad_data, exit code 2, after 1 attempt on" in output


@pytest.mark.slow
def test_slurm_that_does_not_answer_for_a_minute(project: Project, slurm: Cluster) -> None:
    run = project.start(steps=30)
    project.wait_for_step(3)
    slurm.kill("slurmctld")
    time.sleep(60)
    assert run.poll() is None
    slurm.start_controller()
    client.end_of_snakemake(run)
    project.check_result(steps=30)
    assert len(project.lines("a.attempts")) == 1


@pytest.mark.slow
def test_slurm_that_does_not_answer_when_jobs_are_submitted(
    project: Project, slurm: Cluster
) -> None:
    run = project.start(steps=4)
    project.wait_for_step(4)
    # The job is over soon; what follows it cannot be submitted.
    slurm.kill("slurmctld")
    time.sleep(40)
    slurm.start_controller()
    client.end_of_snakemake(run)
    project.check_result(steps=4)
    assert set(project.kinds()) <= {"slurm_unreachable"}


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(project: Project) -> None:
    small = project.folder / "small"
    small.mkdir()
    mounted = client.attempt("mount", "-t", "tmpfs", "-o", "size=16k", "none", str(small))
    if mounted.returncode:
        pytest.skip(f"no file system of its own to fill: {mounted.stderr}")
    try:
        (small / "filled").write_bytes(b"x" * 16_384)
        run = project.start(steps=8, options="--state small/state.json")
        output = client.end_of_snakemake(run, code=1)
        assert project.kinds() == ["disk_full"]
        assert "free space or raise the quota" in output
        (small / "filled").unlink()
        for name in ("a.steps", "a.attempts"):
            (project.folder / name).unlink(missing_ok=True)
        client.end_of_snakemake(project.start(steps=8, options="--state small/state.json"))
        project.check_result(steps=8)
    finally:
        client.run("umount", str(small))
