"""What the experiment cost, from the figures each job left, beside what was planned."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import RecapError
from ..io import read_json
from .inputs import ComparisonInputs

Row = dict[str, Any]


class PlannedStage(BaseModel):
    """What a stage was expected to take; other keys of a plan are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    stage: str = Field(description="the rule")
    arms: list[str] = Field(
        default=[], description="the arms it works for; none: the number is for all of them"
    )
    seconds: float = Field(ge=0, description="wall time of its jobs, summed")


class Plan(BaseModel):
    """The part of ``plan.json`` that the page shows."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    stages: list[PlannedStage]


def read_plan(path: Path | None) -> Plan | None:
    """Return the plan, or ``None`` where there is no such file.

    Raises:
        RecapError: if the file is not a plan.
    """
    if path is None or not path.is_file():
        return None
    try:
        return Plan.model_validate(read_json(path))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise RecapError(
            f"{path}: `{where}`: {error.errors()[0]['msg']}; plan again, or remove the file"
        ) from error


def cost_table(inputs: ComparisonInputs, plan: Plan | None) -> Row:
    """Return what each stage cost for which arms, and the sums.

    Rates are items over the sum of the jobs' wall times, so they do not
    depend on how many jobs ran side by side. Memory is the largest of any
    job, in MiB; of the GPU where one was used. GPU time is wall time of the
    jobs that used a GPU, times their number of ranks.

    Returns:
        ``rows``, ``arms`` (each arm's share, jobs of several arms divided
        equally), ``total`` (``of_planned``: actual seconds of the planned rows)
        and ``planned`` (whether a plan was given).
    """
    groups: dict[tuple[str, tuple[str, ...], str], list[Row]] = {}
    shares = dict.fromkeys(inputs.arm_names, (0.0, 0.0))
    for entry in inputs.perf:
        figures = read_json(entry.path)
        stage = entry.stage or str(figures.get("stage", entry.label))
        key = (stage, tuple(entry.arms), str(figures.get("unit", "items")))
        groups.setdefault(key, []).append(figures)
        for arm in entry.arms:
            seconds, gpu = shares.get(arm, (0.0, 0.0))
            part = 1 / len(entry.arms)
            shares[arm] = (seconds + part * _wall(figures), gpu + part * _gpu(figures))
    rows = [_summary(stage, arms, unit, jobs) for (stage, arms, unit), jobs in groups.items()]
    for row in rows:
        row["planned"] = _planned(plan, row["stage"], row["arms"], rows)
    known = [row["planned"] for row in rows if row["planned"] is not None]
    return {
        "rows": rows,
        "planned": bool(known),
        "arms": [
            {"arm": arm, "seconds": seconds, "gpu_seconds": gpu}
            for arm, (seconds, gpu) in shares.items()
            if seconds
        ],
        "total": {
            "jobs": sum(row["jobs"] for row in rows),
            "seconds": sum(row["seconds"] for row in rows),
            "gpu_seconds": sum(row["gpu_seconds"] for row in rows),
            "planned": sum(known) if known else None,
            "of_planned": sum(row["seconds"] for row in rows if row["planned"] is not None),
        },
    }


def _summary(stage: str, arms: Sequence[str], unit: str, jobs: list[Row]) -> Row:
    items = sum(int(job.get("items", 0)) for job in jobs)
    seconds = round(sum(_wall(job) for job in jobs), 3)
    return {
        "stage": stage,
        "arms": list(arms),
        "unit": unit,
        "jobs": len(jobs),
        "amount": items,
        "seconds": seconds,
        "gpu_seconds": round(sum(_gpu(job) for job in jobs), 3),
        "rate": items / seconds if seconds > 0 else None,
        "rss_mib": max((job.get("peak_rss_mib", 0) for job in jobs), default=0),
        "gpu_mib": max((job.get("gpu_peak_reserved_mib", 0) for job in jobs), default=0),
        "gpus": sorted({str(job["gpu"]) for job in jobs if "gpu" in job}),
    }


def _wall(job: Row) -> float:
    return float(job.get("wall_seconds", 0.0))


def _gpu(job: Row) -> float:
    return _wall(job) * int(job.get("world_size", 1)) if "gpu" in job else 0.0


def _planned(plan: Plan | None, stage: str, arms: list[str], rows: list[Row]) -> float | None:
    """Return the planned seconds of a row; a plan for all arms is divided by jobs."""
    if plan is None:
        return None
    same = [entry for entry in plan.stages if entry.stage == stage]
    own = [entry.seconds for entry in same if sorted(entry.arms) == sorted(arms)]
    if own:
        return sum(own)
    common = [entry.seconds for entry in same if not entry.arms]
    if not common:
        return None
    jobs = {"all": 0, "own": 0}
    for row in rows:
        if row["stage"] == stage:
            jobs["all"] += row["jobs"]
            jobs["own"] += row["jobs"] if row["arms"] == arms else 0
    return sum(common) * jobs["own"] / jobs["all"]
