"""What an experiment cost, by arm and stage, and how well that was predicted."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..io import read_json, write_json, write_text
from .accounting import Attempts, comment_key

FORMAT = 1
SHARED = "shared"
_JOULES_PER_KWH = 3.6e6
COLUMNS = (
    *("arm", "stage", "jobs", "attempts", "wall_hours", "gpu_hours", "energy_kwh"),
    *("peak_rss_mib", "peak_gpu_mib", "source"),
)
Row = dict[str, Any]


def job_costs(perf: Path, arms: Iterable[str], accounting: Mapping[str, Attempts]) -> list[Row]:
    """Return what each job cost that left figures.

    A job's own figures cover the attempt that succeeded. Where SLURM accounts for the job, its
    elapsed times count instead, those of the attempts that failed included.

    Args:
        perf: folder with a folder a rule, of ``<wildcards>.json`` and ``<wildcards>.tsv``.
        arms: names of the arms; other work is shared by all that use it.
        accounting: attempts by :func:`comment_key`, empty where there is none.
    """
    known = set(arms)
    rows = []
    for stage in sorted(path for path in perf.glob("*/") if path.is_dir()):
        names = {path.stem for path in stage.iterdir() if path.suffix in (".json", ".tsv")}
        for name in sorted(names):
            arm = name.partition(".")[0]
            attempts = _attempts(accounting, perf.parent.name, stage.name, name)
            row = _job(stage / f"{name}.json", stage / f"{name}.tsv", attempts)
            rows.append({"arm": arm if arm in known else SHARED, "stage": stage.name, **row})
    return rows


def _attempts(
    accounting: Mapping[str, Attempts], experiment: str, stage: str, name: str
) -> Attempts | None:
    """Return the accounting of a job; its comment joins the wildcards by underscores."""
    wildcards = f"{experiment}.{name.replace('.seed', '.')}"
    return accounting.get(comment_key(f"rule_{stage}_wildcards_{wildcards}"))


def _job(figures_path: Path, benchmark: Path, attempts: Attempts | None) -> Row:
    figures = read_json(figures_path) if figures_path.is_file() else {}
    timed = _read_benchmark(benchmark)
    seconds = timed.get("s") or float(figures.get("wall_seconds", 0.0))
    gpus = int(figures.get("world_size", 1)) if "gpu" in figures else 0
    joules = figures.get("gpu_energy_joules")
    row: Row = {
        "attempts": 1,
        "wall_seconds": seconds,
        "gpu_seconds": seconds * gpus,
        "joules": joules,
        "peak_rss_mib": max(timed.get("max_rss", 0.0), figures.get("peak_rss_mib", 0.0)),
        "peak_gpu_mib": figures.get("gpu_peak_reserved_mib", 0.0),
        "source": "perf",
    }
    if attempts is not None:
        row |= {
            "attempts": len(attempts.seconds),
            "wall_seconds": sum(attempts.seconds),
            "gpu_seconds": attempts.gpu_seconds,
            "joules": attempts.joules if joules is None else joules,
            "source": "sacct",
        }
    return row


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


def cost_table(jobs: Iterable[Row]) -> list[Row]:
    """Return one row an arm and stage; hours add up, memory is the largest of any job."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for job in jobs:
        groups.setdefault((job["arm"], job["stage"]), []).append(job)
    return [
        {"arm": arm, "stage": stage, "jobs": len(group), **_sum(group)}
        for (arm, stage), group in sorted(groups.items())
    ]


def _sum(jobs: list[Row]) -> Row:
    joules = [job["joules"] for job in jobs if job["joules"] is not None]
    return {
        "attempts": sum(job["attempts"] for job in jobs),
        "wall_hours": round(sum(job["wall_seconds"] for job in jobs) / 3600, 4),
        "gpu_hours": round(sum(job["gpu_seconds"] for job in jobs) / 3600, 4),
        "energy_kwh": round(sum(joules) / _JOULES_PER_KWH, 4) if joules else None,
        "peak_rss_mib": max(job["peak_rss_mib"] for job in jobs),
        "peak_gpu_mib": max(job["peak_gpu_mib"] for job in jobs),
        "source": "+".join(sorted({job["source"] for job in jobs})),
    }


def predictions(plan: Row | None, table: Iterable[Row]) -> list[Row]:
    """Return predicted and actual hours of each rule that the plan has and that left figures.

    Args:
        plan: what ``make plan`` wrote before the run, None if it was not asked.
        table: see :func:`cost_table`.
    """
    done: dict[str, Row] = {}
    for row in table:
        total = done.setdefault(row["stage"], {"jobs": 0, "hours": 0.0})
        total["jobs"] += row["jobs"]
        total["hours"] += row["wall_hours"]
    found = []
    for rule in (plan or {}).get("rules", []):
        actual = done.get(rule["rule"])
        if actual is None:
            continue
        # A run that goes on from an earlier one plans fewer jobs than there are figures of.
        predicted = rule["seconds"] / 3600 / rule["jobs"] * actual["jobs"]
        found.append(
            {
                "stage": rule["rule"],
                "jobs": actual["jobs"],
                "predicted_hours": round(predicted, 4),
                "actual_hours": round(actual["hours"], 4),
                "ratio": round(actual["hours"] / predicted, 3) if predicted else None,
                "measured": rule["measured"],
            }
        )
    return found


def write_costs(
    out: Path, table_out: Path, experiment: str, table: list[Row], plan: Row | None
) -> None:
    """Write the costs as JSON and as a table.

    Args:
        out: JSON with ``rows``, ``totals`` and ``predictions``.
        table_out: the rows as TSV, columns as :data:`COLUMNS`.
        experiment: its name.
        table: see :func:`cost_table`.
        plan: see :func:`predictions`.
    """
    energy = [row["energy_kwh"] for row in table if row["energy_kwh"] is not None]
    totals = {
        "wall_hours": round(sum(row["wall_hours"] for row in table), 4),
        "gpu_hours": round(sum(row["gpu_hours"] for row in table), 4),
        "energy_kwh": round(sum(energy), 4) if energy else None,
    }
    document = {
        "format": FORMAT,
        "experiment": experiment,
        "totals": totals,
        "rows": table,
        "predictions": predictions(plan, table),
    }
    write_json(out, document)
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join(_cell(row[name]) for name in COLUMNS) for row in table]
    write_text(table_out, "\n".join(lines) + "\n")


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
