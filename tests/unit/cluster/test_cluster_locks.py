"""Which locks are cleared, and which jobs of an earlier run are waited for."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from recap.cluster import supervision
from recap.cluster.locks import (
    CONTROLLER,
    LOCKS,
    clear_stale_lock,
    controllers,
    note_controller,
)
from recap.cluster.slurm import LiveJob, job_facts, live_jobs
from recap.io import write_json


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    LOCKS.mkdir(parents=True)
    (LOCKS / "0.output.lock").write_text("all.txt\n")
    return tmp_path


def test_the_lock_of_a_process_that_is_gone_is_cleared(folder: Path) -> None:
    note_controller()
    assert clear_stale_lock()
    assert not LOCKS.exists()
    assert not clear_stale_lock()


def test_a_process_that_got_the_number_of_the_killed_one_keeps_no_lock(folder: Path) -> None:
    """Earlier versions noted the number, and any live process with it kept the lock for ever."""
    write_json(CONTROLLER, {"host": socket.gethostname(), "process": os.getpid()})
    assert clear_stale_lock()


def test_a_lock_stays_while_its_owner_may_be_alive(folder: Path) -> None:
    assert not clear_stale_lock()  # nobody knows whose it is
    write_json(CONTROLLER, {"host": "another-login-node"})
    assert not clear_stale_lock()
    assert LOCKS.exists()


@pytest.mark.parametrize("text", ["", '{"ho', "[]", "{}"])
def test_a_torn_note_tells_nothing(folder: Path, text: str) -> None:
    """It is read while the workflow is parsed, which must go on."""
    CONTROLLER.parent.mkdir(parents=True)
    CONTROLLER.write_text(text)
    assert not clear_stale_lock()
    assert LOCKS.exists()


def test_another_snakemake_of_the_folder_keeps_the_lock(folder: Path) -> None:
    note_controller()
    (folder / "snakemake").symlink_to(sys.executable)
    other = subprocess.Popen(["./snakemake", "-c", "import time; time.sleep(30)"], cwd=folder)
    try:
        end = time.monotonic() + 10
        while other.pid not in controllers():
            assert time.monotonic() < end
        assert not clear_stale_lock()
    finally:
        other.kill()
        other.wait()
    assert clear_stale_lock()


def fake(folder: Path, name: str, output: str) -> None:
    """Put a program of SLURM's that prints something on the PATH's first folder."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat <<'E'\n{output}\nE\n")
    path.chmod(0o755)


def test_jobs_of_this_folder_alone_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    here = tmp_path / "work"
    lines = [
        f"11|RUNNING|{here}|rule_pretrain_wildcards_exp_a_1",
        f"12|PENDING|{here}|rule_caption|with|bars",
        f"13|COMPLETED|{here}|rule_merge",
        f"14|RUNNING|{here}|something of the user's",
        "15|RUNNING|/elsewhere|rule_pretrain",
    ]
    fake(tmp_path, "squeue", "\n".join(lines))
    assert [job.number for job in live_jobs(here)] == ["11", "12"]
    fake(tmp_path, "scontrol", "JobId=11 JobState=TIMEOUT Reason=x NodeList=gpu1 BatchHost=gpu1")
    facts = job_facts("11")
    assert (facts.state, facts.node) == ("TIMEOUT", "gpu1")
    fake(tmp_path, "scontrol", "")
    fake(tmp_path, "sacct", "CANCELLED by 1000|gpu[1-2]")
    facts = job_facts("11")
    assert (facts.state, facts.node) == ("CANCELLED", "gpu[1-2]")


def test_without_slurm_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert live_jobs(tmp_path) == []
    assert job_facts("11").state == ""


def test_after_the_wait_the_same_command_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the old jobs finished is not in the plan that was made while they ran."""
    left = [[LiveJob("7", "pretrain", "RUNNING")], [LiveJob("7", "pretrain", "RUNNING")], []]
    done: list[str] = []
    monkeypatch.setattr(supervision, "live_jobs", lambda folder: left.pop(0))
    monkeypatch.setattr(supervision, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(supervision, "note_controller", lambda: None)
    monkeypatch.setattr(os, "execv", lambda path, command: done.append(f"{path} {command}"))
    workflow = SimpleNamespace(
        is_main_process=False,
        executor_plugin=SimpleNamespace(name="slurm"),
        persistence=SimpleNamespace(unlock=lambda: done.append("unlock")),
    )
    supervision.Supervision(workflow, Path("failures.json"))._await_earlier_jobs()
    assert done == ["unlock", f"{sys.executable} {sys.orig_argv}"]


def test_nothing_that_goes_wrong_at_the_end_fails_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workflow = SimpleNamespace(
        is_main_process=False, executor_plugin=SimpleNamespace(name="local"), scheduler=None
    )
    supervision.Supervision(workflow, tmp_path / "failures.json").finish()
    assert "The list of failures could not be finished" in caplog.text
