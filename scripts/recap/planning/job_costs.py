"""What single jobs cost: their own figures, Snakemake's benchmarks, SLURM's accounting."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..compare.inputs import ComparisonInputs
from ..io import read_json
from .accounting import Attempts, comment_key


@dataclass(frozen=True)
class JobCost:
    """One job.

    Attributes:
        stage: the rule.
        arms: those it worked for; several share a job.
        unit: what ``items`` counts; empty for a job that counts nothing.
        own_seconds: of the attempt that succeeded, which made the items.
        seconds: wall time of all attempts that are known of.
        gpu_seconds: the same, times the job's GPUs.
        joules: used by its GPUs, or by its nodes where SLURM measured it; None if nobody did.
        rss_mib: peak memory of the process.
        gpu_mib: peak memory that torch reserved of a GPU.
        gpu: the card's name; empty without one.
        source: ``sacct`` if SLURM's times count, else ``perf``.
    """

    stage: str
    arms: tuple[str, ...]
    unit: str
    items: int
    own_seconds: float
    seconds: float
    gpu_seconds: float
    attempts: int
    joules: float | None
    rss_mib: float
    gpu_mib: float
    gpu: str
    source: str


def job_costs(
    folder: Path, inputs: ComparisonInputs, accounting: Mapping[str, Attempts]
) -> list[JobCost]:
    """Return what each job of an experiment cost.

    Jobs that measure themselves are listed in the comparison's inputs. Of other rules,
    Snakemake's benchmarks count.

    Args:
        folder: ``perf`` of the experiment, with a folder a rule.
        inputs: lists the jobs and the arms they worked for.
        accounting: attempts by :func:`recap.planning.accounting.comment_key`; empty without SLURM.
    """
    listed = {(entry.stage, _name(entry.path, entry.stage)): entry for entry in inputs.perf}
    arms = {key: tuple(entry.arms) for key, entry in listed.items()}
    paths = {key: entry.path for key, entry in listed.items()}
    measured = {stage for stage, _ in listed}
    for path in sorted(folder.glob("*/**/*.tsv")):
        stage = path.relative_to(folder).parts[0]
        name = _name(path, stage)
        if stage not in measured:
            arm = name.partition(".")[0]
            arms[stage, name] = (arm,) if arm in inputs.arm_names else ()
            paths[stage, name] = path
    return [
        _cost(stage, arms[stage, name], path, _attempts(accounting, inputs, stage, name))
        for (stage, name), path in paths.items()
    ]


def _name(path: Path, stage: str) -> str:
    """Return a job's name: its file below the folder of its rule, without the suffix."""
    parts = path.with_suffix("").parts
    return "/".join(parts[parts.index(stage) + 1 :]) if stage in parts else parts[-1]


def _attempts(
    accounting: Mapping[str, Attempts], inputs: ComparisonInputs, stage: str, name: str
) -> Attempts | None:
    """Return the accounting of a job; its comment joins the wildcards by underscores."""
    wildcards = f"{inputs.experiment}.{name.replace('.seed', '.')}"
    return accounting.get(comment_key(f"rule_{stage}_wildcards_{wildcards}"))


def _cost(stage: str, arms: tuple[str, ...], path: Path, attempts: Attempts | None) -> JobCost:
    figures: dict[str, Any] = read_json(path) if path.suffix == ".json" else {}
    timed = _read_benchmark(path.with_suffix(".tsv"))
    own = float(figures.get("wall_seconds", timed.get("s", 0.0)))
    seconds = timed.get("s") or own
    gpu_seconds = seconds * int(figures.get("world_size", 1)) if "gpu" in figures else 0.0
    joules = figures.get("gpu_energy_joules")
    if attempts is not None:
        seconds, gpu_seconds = sum(attempts.seconds), attempts.gpu_seconds
        joules = attempts.joules if joules is None else joules
    return JobCost(
        stage=stage,
        arms=arms,
        unit=str(figures.get("unit", "")),
        items=int(figures.get("items", 0)),
        own_seconds=own,
        seconds=seconds,
        gpu_seconds=gpu_seconds,
        attempts=1 if attempts is None else len(attempts.seconds),
        joules=joules,
        rss_mib=max(timed.get("max_rss", 0.0), float(figures.get("peak_rss_mib", 0.0))),
        gpu_mib=float(figures.get("gpu_peak_reserved_mib", 0.0)),
        gpu=str(figures.get("gpu", "")),
        source="perf" if attempts is None else "sacct",
    )


def _read_benchmark(path: Path) -> dict[str, float]:
    """Return wall seconds and peak memory in MiB of Snakemake's benchmark file, if it is there."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    numbers = rows[-1] if rows else {}
    return {
        name: float(numbers[name])
        for name in ("s", "max_rss")
        # Of a job too short to be looked at, Snakemake writes `NA` or `-`.
        if numbers.get(name, "").replace(".", "", 1).isdigit()
    }
