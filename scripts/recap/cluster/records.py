"""The list of failed jobs, ``failures.json``, and what the next attempts take from it."""

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..io import read_json, write_json
from .failures import CLASSES

FORMAT = 1


@dataclass
class Failure:
    """One attempt of one job that failed.

    Attributes:
        kind: a key of :data:`recap.cluster.failures.CLASSES`.
        attempt: from 1.
        updates: how far training was when it saved its state, None if it didn't.
        final: whether the job is not tried again.
        cured: whether a later attempt succeeded.
        requeued: whether SLURM itself put the job back into its queue.
        log_tail: the last lines of the job's log, else of SLURM's.
        members: the jobs that were submitted as one, as ``rule:job_key``; one if alone.
    """

    rule: str
    wildcards: dict[str, str]
    kind: str
    attempt: int
    node: str
    slurm_job: str
    state: str
    exit_code: int | None
    log: str
    log_tail: list[str]
    advice: str
    when: str
    updates: int | None = None
    final: bool = False
    cured: bool = False
    requeued: bool = False
    members: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The job in words."""
        return f"{self.rule} ({job_key(self.wildcards)})" if self.wildcards else self.rule

    def concerns(self, rule: str, key: str) -> bool:
        """Return whether this is a failure of a job, alone or as one of a group."""
        return f"{rule}:{key}" in self.members


class FailureLog:
    """The failures of a run, kept on disk after each."""

    def __init__(self, path: Path) -> None:
        """Keep the list at ``path``."""
        self.path = path
        self.failures: list[Failure] = []
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Begin a run: what an earlier one found is out of date."""
        with self._lock:
            self.failures = []
            self.path.unlink(missing_ok=True)

    def of(self, members: list[str]) -> list[Failure]:
        """Return the earlier failures of a submission, oldest first."""
        return [one for one in self.failures if one.members == members]

    def add(self, failure: Failure) -> None:
        """Append a failure and write the list."""
        with self._lock:
            self.failures.append(failure)
            self._write()

    def insert(self, failures: list[Failure]) -> None:
        """Add failures that were learned of late; the list stays in the order of time."""
        with self._lock:
            self.failures = sorted([*self.failures, *failures], key=lambda one: one.when)
            if failures:
                self._write()

    def settle(self, failed: set[str]) -> None:
        """Note at the end of a run which jobs succeeded after all.

        Args:
            failed: the jobs that did not, as ``rule:job_key``.
        """
        with self._lock:
            for one in self.failures:
                one.cured = failed.isdisjoint(one.members)
            if self.failures:
                self._write()

    def _write(self) -> None:
        rows = [asdict(one) for one in self.failures]
        write_json(self.path, {"format": FORMAT, "failures": rows})


def job_key(wildcards: Mapping[str, str]) -> str:
    """Return what tells a rule's jobs apart."""
    return ",".join(f"{name}={value}" for name, value in sorted(wildcards.items()))


def read_failures(path: Path) -> list[Failure]:
    """Return the failures that a file lists; none if it is not there.

    Raises:
        RecapError: if it is not such a file.
    """
    if not path.is_file():
        return []
    return [Failure(**row) for row in read_json(path)["failures"]]


def grown(path: Path, what: str, count: int, wildcards: Any, attempt: int, rule: str) -> int:
    """Return a job's request for memory or time.

    It grows by its first value with each failure that more of it can cure, and with no other: a
    job that lost its node must not end up where no node is large enough.

    Args:
        path: the list of failures.
        what: ``memory`` or ``time``.
        count: MB or minutes of the first attempt.
        wildcards: the job's.
        attempt: from 1.
        rule: the job's.
    """
    if attempt <= 1:
        return count
    key = job_key(dict(wildcards.items()))
    earlier = [one for one in read_failures(path) if one.concerns(rule, key)]
    return count * (1 + sum(CLASSES[one.kind].grows == what for one in earlier))
