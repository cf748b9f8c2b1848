"""Reading what Snakemake says in a dry run: jobs, why they run, and what they ask for."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..errors import RecapError

# Snakemake's words, and ours for them; the first that fits a job counts.
REASONS = (
    ("Missing output files", "missing"),
    ("Updated input files", "changed input"),
    ("Set of input files has changed", "other inputs"),
    ("Params have changed", "changed setting or stage version"),
    ("Code has changed", "changed rule"),
    ("Software environment definition has changed", "changed environment"),
    ("Input files updated by another job", "follows from others"),
    ("Forced execution", "asked for"),
)
# Jobs that share a submission are indented below the line of their group.
_HEAD = re.compile(r"^(?:    )?(?:local)?(?:rule|checkpoint) (\w+):$")
_FIELD = re.compile(r"^(?:    ){1,2}(\w+): (.*)$")


@dataclass
class PlannedJob:
    """A job that would run.

    Attributes:
        why: one of the words of :data:`REASONS`.
        gpus: on all of its nodes.
        after: numbers of the jobs whose files it reads.
        measured_as: folder of its times below ``perf``; empty for a job that is not timed.
    """

    number: int
    rule: str
    wildcards: dict[str, str]
    why: str
    inputs: list[str]
    outputs: list[str]
    threads: int
    gpus: int
    memory_mb: int
    after: list[int] = field(default_factory=list)
    measured_as: str = ""


def dry_run(arguments: Sequence[str]) -> str:
    """Return what ``snakemake --dry-run`` prints.

    Raises:
        RecapError: with Snakemake's words, if it cannot plan.
    """
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nocolor", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise RecapError(f"Snakemake cannot plan this run:\n{tail}")
    return done.stdout


def read_jobs(text: str) -> list[PlannedJob]:
    """Return the jobs of a dry run, each with the jobs it follows."""
    jobs = [_job(rule, fields) for rule, fields in _blocks(text)]
    makers = {path: job.number for job in jobs for path in job.outputs}
    for job in jobs:
        job.after = sorted({makers[path] for path in job.inputs if path in makers})
    return jobs


def _blocks(text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each job's rule and fields."""
    rule, fields = "", dict[str, str]()
    for line in text.splitlines():
        head, entry = _HEAD.match(line), _FIELD.match(line)
        if head:
            if rule:
                yield rule, fields
            rule, fields = head[1], {}
        elif entry and rule:
            fields.setdefault(entry[1], entry[2])
    if rule:
        yield rule, fields


def _job(rule: str, fields: dict[str, str]) -> PlannedJob:
    asked = dict(_pairs(fields.get("resources", "")))
    reason = fields.get("reason", "")
    return PlannedJob(
        number=int(fields["jobid"]),
        rule=rule,
        wildcards=dict(_pairs(fields.get("wildcards", ""))),
        why=next((word for text, word in REASONS if text in reason), "other"),
        inputs=_listed(fields.get("input", "")),
        outputs=_listed(fields.get("output", "")),
        threads=int(fields.get("threads", "1")),
        gpus=_gpus(asked),
        memory_mb=int(asked.get("mem_mb", "0")),
        measured_as=fields.get("benchmark", "").rpartition("perf/")[2].partition("/")[0],
    )


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for item in text.split(", "):
        name, found, value = item.partition("=")
        if found:
            yield name, value


def _listed(text: str) -> list[str]:
    return [path for path in text.split(", ") if path]


def _gpus(asked: dict[str, str]) -> int:
    """Return the GPUs of a job from ``gpu``, or from ``gres`` and ``nodes``."""
    if asked.get("gpu", "0") != "0":
        return int(asked["gpu"])
    kind, _, count = asked.get("gres", "").rpartition(":")
    return int(count) * int(asked.get("nodes", "1")) if kind.startswith("gpu") else 0
