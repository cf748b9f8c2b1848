"""The running cluster, asked as a user asks it."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SNAKEMAKE = Path(__file__).parent / "bin/snakemake"
ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


def environment() -> dict[str, str]:
    """Return a login shell's environment: what a launch has to set is not there."""
    hidden = ("OMP_NUM_THREADS", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def attempt(*command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever that is."""
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def run(*command: str, folder: Path = ROOT) -> str:
    """Return what a command prints, or fail with what it says."""
    done = attempt(*command, folder=folder)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def snakemake(
    folder: Path, *words: str, partition: str, profile: str = "--profile"
) -> subprocess.Popen[str]:
    """Start Snakemake with the shipped profile, and with what the tests' cluster needs besides."""
    command = [
        *(sys.executable, str(SNAKEMAKE), profile, "profiles/slurm"),
        *("--default-resources", "mem_mb=1000", "runtime=30", "slurm_account=lab"),
        *(f"slurm_partition={partition}", "--slurm-init-seconds-before-status-checks", "2"),
        *("--latency-wait", "5", *words),
    ]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end_of_snakemake(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a Snakemake and return what it said."""
    output = process.communicate(timeout=1500)[0]
    assert process.returncode == code, output
    return output


def clear_queue(processes: list[subprocess.Popen[str]]) -> None:
    """End what a test that failed left behind: Snakemakes, then their jobs."""
    for process in processes:
        process.kill()
    for job in live_jobs():
        attempt("scancel", job)
    wait_for(lambda: not live_jobs())


def submit(command: list[str], log: Path, *options: str) -> str:
    """Submit a command, its messages to ``log``, and return the number of its job."""
    wrapped = f"exec {shlex.join(command)} 2>>{shlex.quote(str(log))}"
    return run("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={wrapped}").strip()


def state(job: str) -> tuple[str, int]:
    """Return a job's state and exit code."""
    shown = run("scontrol", "show", "job", job, "--oneliner")
    found = re.search(r"JobState=(\w+).* ExitCode=(\d+):", shown)
    return found.group(1), int(found.group(2))


def end_of(job: str) -> tuple[str, int]:
    """Wait for a job and return its state and exit code."""
    wait_for(lambda: state(job)[0] not in ALIVE)
    return state(job)


def live_jobs() -> list[str]:
    """Return the numbers of the jobs that wait or run."""
    return run("squeue", "--noheader", "--format=%A").split()


def wait_for(condition: Callable[[], object], seconds: float = 240.0) -> None:
    """Wait until something is so, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.1)
