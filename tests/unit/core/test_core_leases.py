"""GPUs of one machine, leased to jobs: never two jobs on one, and free after a crash."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from recap.leases import FOLDER, _take

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "lease_gpus.py"


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with two GPUs, as nvidia-smi tells."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho GPU-aaa\necho GPU-bbb\n")
    tool.chmod(0o755)
    kept = {
        k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID")
    }
    return kept | {"PATH": f"{tool.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}


def start(machine: dict[str, str], gpus: int, shell: str, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(gpus), "sh", "-c", shell]
    return subprocess.Popen(
        command,
        env=machine | more,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def shown(job: subprocess.Popen[str]) -> str:
    output, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    return output.strip()


SHOW = "echo ${CUDA_VISIBLE_DEVICES-unset}"


def test_jobs_never_share_a_gpu(machine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    busy = (
        f"echo + $CUDA_VISIBLE_DEVICES >> {log}; sleep 0.3; echo - $CUDA_VISIBLE_DEVICES >> {log}"
    )
    jobs = [start(machine, 1, busy) for _ in range(5)]
    for job in jobs:
        shown(job)
    held: set[str] = set()
    lines = log.read_text().splitlines()
    assert len(lines) == 10
    for line in lines:
        sign, gpu = line.split()
        assert gpu in ("GPU-aaa", "GPU-bbb")
        if sign == "+":
            assert gpu not in held
            held.add(gpu)
        else:
            held.remove(gpu)


def test_two_of_two_wait_for_both(machine) -> None:
    one = start(machine, 1, "sleep 1")
    time.sleep(0.5)
    both = start(machine, 2, SHOW)
    assert shown(both) == "GPU-aaa,GPU-bbb"
    assert one.poll() == 0, "had to end first"
    one.communicate()


def test_a_killed_job_leaves_its_gpu_free(machine) -> None:
    job = start(machine, 2, "echo $$; exec sleep 60")
    pid = int(job.stdout.readline())
    os.kill(pid, signal.SIGKILL)
    job.communicate()
    assert shown(start(machine, 2, SHOW)) == "GPU-aaa,GPU-bbb"


def test_gpus_shown_by_the_user_are_the_ones_to_be_had(machine) -> None:
    assert shown(start(machine, 1, SHOW, CUDA_VISIBLE_DEVICES="3")) == "3"


@pytest.mark.parametrize(
    ("gpus", "more"), [(0, {}), (1, {"SLURM_JOB_ID": "7"}), (1, {"PATH": "/usr/bin:/bin"})]
)
def test_where_nothing_is_leased_the_command_runs_as_it_is(machine, gpus, more) -> None:
    assert shown(start(machine, gpus, SHOW, **more)) == "unset"


def test_more_gpus_than_there_are_is_an_error(machine) -> None:
    job = start(machine, 3, SHOW)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 2
    assert "asks for 3 GPUs, this machine has 2" in errors


def test_the_command_s_exit_code_is_the_job_s(machine) -> None:
    job = start(machine, 1, "exit 75")
    job.communicate(timeout=60)
    assert job.returncode == 75


def test_locks_are_for_every_user_of_the_machine(machine, tmp_path: Path) -> None:
    job = start(machine, 2, SHOW)
    assert shown(job) == "GPU-aaa,GPU-bbb"
    for name in ("GPU-aaa", "GPU-bbb"):
        mode = (tmp_path / FOLDER / f"{name}.lock").stat().st_mode
        assert mode & 0o777 == 0o666


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("mode", [0o666, 0o644])
def test_the_locks_of_another_user_are_taken(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    folder.chmod(0o1777)
    lock = folder / "0.lock"
    lock.touch()
    lock.chmod(mode)
    os.chown(lock, 1, 1)
    child = os.fork()
    if not child:  # nothing but the exit code comes back
        code = 1
        try:
            os.chdir(folder)
            os.setuid(65534)
            descriptors = _take(Path(), ["0"], 1)
            code = 0 if list(descriptors) == ["0"] else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
