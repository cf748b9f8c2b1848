"""Asking SLURM about jobs, where there is one; never an error where there isn't."""

import math
import re
import subprocess
import time
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "RESIZING")
_SECONDS = 30
_PAUSE = 5.0
# Between submissions to a full queue; fifty of them take four hours.
_QUEUE_PAUSE = 30.0
_LONGEST_QUEUE_PAUSE = 300.0


@dataclass(frozen=True)
class JobFacts:
    """What SLURM knows about a job; empty strings for what it doesn't."""

    state: str = ""
    node: str = ""


@dataclass(frozen=True)
class LiveJob:
    """A job that waits or runs."""

    number: str
    what: str
    state: str


@dataclass(frozen=True)
class Requeued:
    """An attempt of a job that SLURM put back into its queue.

    Attributes:
        comment: what the plugin wrote into it: rule and wildcards.
        end: local time as SLURM writes it, or a word while the attempt has none.
        attempt: from 1.
    """

    number: str
    comment: str
    state: str
    node: str
    end: str
    attempt: int = 1

    @property
    def ended(self) -> float:
        """UNIX time in seconds; 0 if it is not known."""
        try:
            return datetime.fromisoformat(self.end).timestamp()
        except ValueError:
            return 0.0


def ask(*command: str) -> str | None:
    """Return what a command prints; None if it fails, hangs or does not exist."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def job_facts(number: str) -> JobFacts:
    """Return state and node of a job, from the controller or, when it forgot, the accounting."""
    if not number:
        return JobFacts()
    shown = ask("scontrol", "show", "job", number, "--oneliner")
    if shown:
        state = re.search(r"\bJobState=(\w+)", shown)
        node = re.search(r"\bBatchHost=(\S+)", shown) or re.search(r"\bNodeList=(\S+)", shown)
        if state:
            return JobFacts(state[1], _named(node[1] if node else ""))
    listed = ask("sacct", "-X", "-n", "-P", f"--jobs={number}", "--format=State,NodeList")
    if listed and listed.strip():
        ended, _, nodes = listed.splitlines()[-1].partition("|")
        return JobFacts(ended.partition(" ")[0], _named(nodes))
    return JobFacts()


def _named(nodes: str) -> str:
    return "" if nodes.startswith(("(", "None")) or nodes == "None assigned" else nodes


def live_jobs(folder: Path) -> list[LiveJob]:
    """Return the jobs that a Snakemake of this folder submitted and that wait or run.

    The plugin names a job by the run's UUID and writes its rule into the comment.
    """
    listed = ask("squeue", "--me", "--noheader", "--format=%A|%T|%Z|%k")
    found = []
    for line in (listed or "").splitlines():
        number, state, where, comment = (line.split("|", 3) + [""] * 4)[:4]
        if Path(where) == folder and comment.startswith("rule_") and state in ALIVE:
            found.append(LiveJob(number, comment.removeprefix("rule_"), state))
    return found


def requeued_attempts(folder: Path, since: float) -> list[Requeued]:
    """Return the attempts that SLURM itself ended and repeated; none without accounting.

    Snakemake hears nothing of them: the job keeps its number. The accounting has a record
    for each attempt, of which all but the last were repeated.

    Args:
        folder: where Snakemake ran.
        since: UNIX time in seconds; attempts that ended before are left out.
    """
    fields = ("JobIDRaw", "State", "NodeList", "End", "WorkDir", "Comment")
    listed = ask(
        *("sacct", "--allocations", "--duplicates", "--noheader", "--parsable2"),
        f"--starttime={time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(since))}",
        f"--format={','.join(fields)}",
    )
    attempts: dict[str, list[Requeued]] = {}
    for line in (listed or "").splitlines():
        number, state, node, end, where, comment = (line.split("|", 5) + [""] * 6)[:6]
        if Path(where) == folder and comment.startswith("rule_"):
            mine = attempts.setdefault(number, [])
            mine.append(Requeued(number, comment, state.partition(" ")[0], _named(node), end))
    return [
        replace(one, attempt=place)
        for mine in attempts.values()
        for place, one in enumerate(sorted(mine, key=lambda one: one.end)[:-1], start=1)
        if one.ended >= int(since)
    ]


def wait_for_controller(limit_seconds: float) -> bool:
    """Wait until SLURM's controller answers; return whether it does."""
    end = time.monotonic() + limit_seconds
    while ask("sinfo", "--noheader", "--format=%P") is None:
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE)
    return True


class QueuePause:
    """Gives a full queue time to empty; the controller itself answers at once."""

    def __init__(self) -> None:
        self._refusals: dict[tuple[str, ...], list[float]] = {}
        self._ended = -math.inf

    def wait(self, job: tuple[str, ...]) -> None:
        """Wait, once for all the jobs that were refused together, and longer each time.

        Args:
            job: names the submission that was refused.
        """
        refusals = self._refusals.setdefault(job, [])
        seconds = min(_QUEUE_PAUSE * 2 ** len(refusals), _LONGEST_QUEUE_PAUSE)
        last = refusals[-1] if refusals else time.monotonic() - seconds
        if self._ended <= last:
            time.sleep(seconds)
            self._ended = time.monotonic()
        refusals.append(time.monotonic())
