"""What an experiment cost, by stage and arms, and how well that was predicted.

The report's page shows this document, so there is one account of a run.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import RecapError
from ..io import read_json, write_json, write_text
from .job_costs import JobCost

FORMAT = 2
_HOUR = 3600.0
_JOULES_PER_KWH = 3.6e6
Row = dict[str, Any]


class PlannedRule(BaseModel):
    """What a rule's jobs were expected to take; other keys of a plan are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rule: str = Field(description="its name")
    jobs: int = Field(ge=1, description="jobs that were planned")
    seconds: float = Field(ge=0, description="wall time of these jobs, summed")
    measured: bool = Field(False, description="whether earlier jobs of the experiment said so")

    @property
    def each(self) -> float:
        """Seconds of one job."""
        return self.seconds / self.jobs


class Plan(BaseModel):
    """The part of ``plan.json`` that costs are held against."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rules: list[PlannedRule]


def read_plan(path: Path) -> Plan | None:
    """Return the plan, or ``None`` where there is no such file.

    Raises:
        RecapError: if the file is not a plan.
    """
    if not path.is_file():
        return None
    try:
        return Plan.model_validate(read_json(path))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise RecapError(
            f"{path}: `{where}`: {error.errors()[0]['msg']}; plan again, or remove the file"
        ) from error


def cost_document(
    experiment: str, arm_names: Sequence[str], jobs: Sequence[JobCost], plan: Plan | None
) -> Row:
    """Return what an experiment cost.

    Args:
        experiment: its name.
        arm_names: the compared arms, in order.
        jobs: see :func:`recap.planning.job_costs.job_costs`.
        plan: what was planned before the run, ``None`` if nobody asked.

    Returns:
        ``rows`` (one a stage, set of arms and unit), ``arms`` (each arm's share: jobs of several
        arms are divided equally), ``total`` and ``predictions`` (one a rule that was planned and
        that left figures). Times are in seconds, energy in joules, memory in MiB.
    """
    groups: dict[tuple[str, tuple[str, ...], str], list[JobCost]] = {}
    for job in jobs:
        groups.setdefault((job.stage, job.arms, job.unit), []).append(job)
    rows = [_summary(group) for group in groups.values()]
    planned = {rule.rule: rule for rule in plan.rules} if plan else {}
    for row in rows:
        rule = planned.get(row["stage"])
        # A run that goes on from an earlier one plans fewer jobs than there are figures of.
        row["planned"] = round(rule.each * row["jobs"], 3) if rule else None
    return {
        "format": FORMAT,
        "experiment": experiment,
        "total": _total(rows),
        "arms": _shares(arm_names, jobs),
        "rows": rows,
        "predictions": _predictions(rows, planned),
    }


def _summary(jobs: Sequence[JobCost]) -> Row:
    """Return a row: times and energy add up, memory is the largest of any job.

    The rate is items over the sum of the times that made them, so it depends neither on how many
    jobs ran side by side nor on attempts that failed.
    """
    items, own = sum(job.items for job in jobs), sum(job.own_seconds for job in jobs)
    return {
        "stage": jobs[0].stage,
        "arms": list(jobs[0].arms),
        "unit": jobs[0].unit,
        "jobs": len(jobs),
        "attempts": sum(job.attempts for job in jobs),
        "items": items,
        "rate": items / own if items and own > 0 else None,
        "seconds": _sum(job.seconds for job in jobs),
        "gpu_seconds": _sum(job.gpu_seconds for job in jobs),
        "joules": _energy(job.joules for job in jobs),
        "rss_mib": max(job.rss_mib for job in jobs),
        "gpu_mib": max(job.gpu_mib for job in jobs),
        "gpus": sorted({job.gpu for job in jobs if job.gpu}),
        "source": "+".join(sorted({job.source for job in jobs})),
    }


def _sum(values: Iterable[float]) -> float:
    return round(sum(values), 3)


def _energy(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _sum(known) if known else None


def _total(rows: Sequence[Row]) -> Row:
    """Return the sums; ``of_planned`` is what the planned rows took."""
    known = [row for row in rows if row["planned"] is not None]
    return {
        "jobs": sum(row["jobs"] for row in rows),
        "attempts": sum(row["attempts"] for row in rows),
        "seconds": _sum(row["seconds"] for row in rows),
        "gpu_seconds": _sum(row["gpu_seconds"] for row in rows),
        "joules": _energy(row["joules"] for row in rows),
        "planned": _sum(row["planned"] for row in known) if known else None,
        "of_planned": _sum(row["seconds"] for row in known),
    }


def _shares(arm_names: Sequence[str], jobs: Sequence[JobCost]) -> list[Row]:
    shares = []
    for arm in dict.fromkeys([*arm_names, *(arm for job in jobs for arm in job.arms)]):
        own = [(job, 1 / len(job.arms)) for job in jobs if arm in job.arms]
        if not own:
            continue
        shares.append(
            {
                "arm": arm,
                "seconds": _sum(part * job.seconds for job, part in own),
                "gpu_seconds": _sum(part * job.gpu_seconds for job, part in own),
                "joules": _energy(job.joules and part * job.joules for job, part in own),
            }
        )
    return shares


def _predictions(rows: Sequence[Row], planned: dict[str, PlannedRule]) -> list[Row]:
    found = []
    for rule in planned.values():
        done = [row for row in rows if row["stage"] == rule.rule]
        if not done:
            continue
        predicted, actual = _sum(row["planned"] for row in done), _sum(r["seconds"] for r in done)
        found.append(
            {
                "stage": rule.rule,
                "jobs": sum(row["jobs"] for row in done),
                "predicted_seconds": predicted,
                "actual_seconds": actual,
                "ratio": round(actual / predicted, 3) if predicted else None,
                "measured": rule.measured,
            }
        )
    return found


_COLUMNS = {
    "stage": lambda row: row["stage"],
    "arms": lambda row: ",".join(row["arms"]),
    "jobs": lambda row: row["jobs"],
    "attempts": lambda row: row["attempts"],
    "wall_hours": lambda row: round(row["seconds"] / _HOUR, 4),
    "gpu_hours": lambda row: round(row["gpu_seconds"] / _HOUR, 4),
    "energy_kwh": lambda row: _kwh(row["joules"]),
    "peak_rss_mib": lambda row: row["rss_mib"],
    "peak_gpu_mib": lambda row: row["gpu_mib"],
    "source": lambda row: row["source"],
}


def _kwh(joules: float | None) -> float | str:
    return "" if joules is None else round(joules / _JOULES_PER_KWH, 4)


def write_costs(out: Path, table: Path, document: Row) -> None:
    """Write the document as JSON, and its rows as TSV in hours and kilowatt hours."""
    write_json(out, document)
    lines = ["\t".join(_COLUMNS)]
    lines += ["\t".join(str(cell(row)) for cell in _COLUMNS.values()) for row in document["rows"]]
    write_text(table, "\n".join(lines) + "\n")
