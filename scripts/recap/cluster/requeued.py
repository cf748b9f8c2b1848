"""Attempts that SLURM itself ended and repeated: their node was lost, or they made room."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from .failures import CLASSES, Evidence, classify
from .records import Failure, job_key
from .slurm import Requeued

# What an administrator's `scontrol requeue` leaves; nothing was wrong with the job then, either.
_STATES = {"REQUEUED": "PREEMPTED"}


def requeued_failures(attempts: Iterable[Requeued], jobs: Iterable[Any]) -> list[Failure]:
    """Return attempts that were repeated as failures of Snakemake's jobs.

    Args:
        attempts: as SLURM accounts for them.
        jobs: Snakemake's; a submission of several has no single job and is named as SLURM does.
    """
    by_comment = {_comment(job): job for job in jobs}
    return [_failure(one, by_comment.get(one.comment)) for one in attempts]


def _comment(job: Any) -> str:
    """Return what the pinned plugin writes into a job: its rule, and its wildcards' values."""
    values = "_".join(job.wildcards).replace("/", "_")
    return f"rule_{job.rule.name}" + (f"_wildcards_{values}" if values else "")


def _failure(one: Requeued, job: Any) -> Failure:
    kind = classify(Evidence(state=_STATES.get(one.state, one.state)))
    wildcards = {} if job is None else dict(job.wildcards_dict)
    rule = one.comment.removeprefix("rule_") if job is None else job.rule.name
    return Failure(
        rule=rule,
        wildcards=wildcards,
        kind=kind,
        attempt=one.attempt,
        node=one.node,
        slurm_job=one.number,
        state=one.state,
        exit_code=None,
        log="" if job is None else next(map(str, job.log), ""),
        log_tail=[],
        advice=CLASSES[kind].advice,
        when=datetime.fromtimestamp(one.ended, UTC).isoformat(timespec="seconds"),
        requeued=True,
        members=[] if job is None else [f"{rule}:{job_key(wildcards)}"],
    )
