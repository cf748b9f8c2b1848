"""Running a command and seeing what it cost, for ``curate.py`` and ``scaling.py``."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class CommandError(Exception):
    """A command failed; the message ends with the end of its log."""


@dataclass(frozen=True)
class Cost:
    """What commands cost.

    Attributes:
        wall: seconds from start to end.
        cpu: seconds of CPU time, children included.
        rss_mib: peak resident set of the largest process.
    """

    wall: float
    cpu: float
    rss_mib: float


def run(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Cost:
    """Run a command to its end, its output in ``log``.

    Raises:
        CommandError: if it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # A child's peak starts at what its parent holds: these benchmarks import little.
    started = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | (environment or {}),
        )
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise CommandError(f"{' '.join(command)[:300]}\nfailed:\n{log.read_text()[-2000:]}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def corpus(folder: Path, records: int, pictures: int) -> Path:
    """Build a corpus, in a process of its own, and return its JSONL file."""
    script = str(Path(__file__).with_name("curation_corpus.py"))
    options = ["--folder", str(folder), "--records", str(records), "--pictures", str(pictures)]
    run([sys.executable, script, *options], folder / "corpus.log")
    return folder / f"corpus_{records}.jsonl"


def together(costs: Iterable[Cost], wall: float) -> Cost:
    """Return the cost of commands that took ``wall`` seconds as a whole."""
    costs = list(costs)
    return Cost(wall, sum(cost.cpu for cost in costs), max(cost.rss_mib for cost in costs))


def markdown(rows: list[dict[str, object]]) -> str:
    """Return rows with equal keys as a Markdown table, numbers to the right."""
    head = list(rows[0])
    right = [isinstance(rows[0][key], int | float) for key in head]
    lines = [
        " | ".join(head),
        " | ".join("---:" if number else "---" for number in right),
        *(" | ".join(show(row[key]) for key in head) for row in rows),
    ]
    return "\n".join(f"| {line} |" for line in lines)


def show(value: object) -> str:
    """Return a cell: thousands separated, three significant digits of small numbers."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
