"""What the experiment cost, from the figures each job left."""

from typing import Any

from ..io import read_json
from .inputs import ComparisonInputs

Row = dict[str, Any]


def cost_rows(inputs: ComparisonInputs) -> list[Row]:
    """Return one row a stage and unit: jobs, items, hours, rate, peak memory.

    Rates are items over the sum of the jobs' wall times, so they do not
    depend on how many jobs ran side by side. Memory is the largest of any
    job, in MiB; of the GPU where one was used.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for entry in inputs.perf:
        figures = read_json(entry.path)
        key = (str(figures.get("stage", entry.label)), str(figures.get("unit", "items")))
        groups.setdefault(key, []).append(figures)
    return [_summary(stage, unit, jobs) for (stage, unit), jobs in groups.items()]


def _summary(stage: str, unit: str, jobs: list[Row]) -> Row:
    items = sum(int(job.get("items", 0)) for job in jobs)
    seconds = sum(float(job.get("wall_seconds", 0.0)) for job in jobs)
    return {
        "stage": stage,
        "unit": unit,
        "jobs": len(jobs),
        "amount": items,
        "seconds": seconds,
        "rate": items / seconds if seconds > 0 else None,
        "rss_mib": max((job.get("peak_rss_mib", 0) for job in jobs), default=0),
        "gpu_mib": max((job.get("gpu_peak_reserved_mib", 0) for job in jobs), default=0),
        "gpus": sorted({str(job["gpu"]) for job in jobs if "gpu" in job}),
    }
