"""What runs on the make-believe nodes, as the processes of this one machine show it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slurm_cluster import Cluster


def job_processes() -> Iterator[tuple[int, dict[str, str]]]:
    """Yield process id and environment of whatever SLURM's jobs run."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "environ").read_bytes().decode(errors="replace").split("\0")
            environment = dict(word.split("=", 1) for word in words if "=" in word)
            if "SLURMD_NODENAME" in environment:
                yield int(entry.name), environment


def crash(slurm: Cluster, node: str) -> None:
    """Let a node vanish as in a power cut: its daemon and all that runs on it."""
    slurm.kill(f"slurmd-{node}")
    for pid, environment in job_processes():
        if environment["SLURMD_NODENAME"] == node:
            with contextlib.suppress(OSError):
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                os.kill(pid, signal.SIGKILL)
                if b"slurmstepd" in Path(f"/proc/{parent}/cmdline").read_bytes():
                    os.kill(parent, signal.SIGKILL)


@contextlib.contextmanager
def paused(job: str, script: str) -> Iterator[None]:
    """Hold the processes of a job that run a script, as an update that takes long would."""
    held = [
        pid
        for pid, environment in job_processes()
        if environment["SLURM_JOB_ID"] == job and script in _command(pid)
    ]
    assert held
    _signal(held, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(held, signal.SIGCONT)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    return ""


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@dataclass
class Stay:
    """A job on a card of a node, and when it was first and last seen there."""

    job: str
    node: str
    card: str
    first: float
    last: float


class CardWatch(threading.Thread):
    """Notes, until it is stopped, which job holds which card."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stays: dict[tuple[str, str, str], Stay] = {}
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.5):
            for _, environment in job_processes():
                cards = environment.get("CUDA_VISIBLE_DEVICES", "")
                for card in filter(None, cards.split(",")):
                    key = (environment["SLURM_JOB_ID"], environment["SLURMD_NODENAME"], card)
                    now = time.monotonic()
                    self._stays.setdefault(key, Stay(*key, now, now)).last = now

    def stop(self) -> list[Stay]:
        """Return what was seen, by the time it began."""
        self._done.set()
        self.join()
        return sorted(self._stays.values(), key=lambda stay: stay.first)
