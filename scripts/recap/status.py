"""Where an experiment stands, told from its files alone: running, stopped or finished."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cluster.locks import controllers
from .launch import failed_logs
from .progress import RunProgress, duration, gpu_use

Row = dict[str, Any]


@dataclass(frozen=True)
class StageStatus:
    """One stage.

    Attributes:
        name: the rule.
        done: number of its files that exist.
        total: number of its files.
        rate: items a second of one job, with the unit, where the jobs measured it.
        seconds_left: at the pace at which its files appeared; none if unknown.
    """

    name: str
    done: int
    total: int
    rate: str = ""
    seconds_left: float | None = None


def stage_status(name: str, files: Sequence[str]) -> StageStatus:
    """Return where a stage stands."""
    found = [Path(file) for file in files if Path(file).is_file()]
    if not found:
        return StageStatus(name, 0, len(files))
    jobs = [figures for figures in map(_figures, found) if figures]
    seconds = sum(job["wall_seconds"] for job in jobs)
    rate = ""
    if seconds > 0:
        rate = f"{sum(job['items'] for job in jobs) / seconds:.2f} {jobs[0]['unit']}/s"
    return StageStatus(name, len(found), len(files), rate, _seconds_left(found, jobs, len(files)))


def _figures(path: Path) -> Row | None:
    """Return what a job measured of itself, if its file says so."""
    if "/perf/" not in path.as_posix():
        return None
    try:
        document: Row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it may be replaced just now
        return None
    return document if {"items", "wall_seconds", "unit"} <= set(document) else None


def _seconds_left(found: Sequence[Path], jobs: Sequence[Row], total: int) -> float | None:
    """Return how long the rest takes at the pace at which the files appeared."""
    if len(found) == total:
        return 0.0
    times = sorted(path.stat().st_mtime for path in found)
    first = jobs[0]["wall_seconds"] if jobs else 0.0
    elapsed = times[-1] - times[0] + first
    return (total - len(found)) * elapsed / len(found) if elapsed > 0 else None


def work_in_progress(base: Path) -> Iterator[str]:
    """Yield a line a run that has unfinished state on disk: it runs, or can go on."""
    for stage in ("pretrain", "finetune"):
        for file in sorted((base / "state" / stage).glob("*/*/telemetry.jsonl")):
            if (base / "perf" / stage / f"{file.parts[-3]}.json").is_file():
                continue  # done: its last checkpoint stays until the next step begins
            updates = f"{_lines(file)} updates{_updates_of_others(base, stage)}"
            yield f"{stage} {file.parts[-3]}: {updates}, last written {_age(file)} ago"
    for folder in sorted((base / "state" / "predict").glob("*")):
        # Answers stay when a shard is done, and each journal begins with a head.
        journals = list(folder.glob("**/*.jsonl"))
        finished = len(list((base / "perf" / "predict_shard").glob(f"{folder.name}.[0-9]*.json")))
        if finished < len({journal.name.split(".")[0] for journal in journals}):
            answers = sum(_lines(journal) - 1 for journal in journals)
            newest = max(journals, key=lambda path: path.stat().st_mtime)
            yield f"predict {folder.name}: {answers} answers, last written {_age(newest)} ago"


def _lines(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


def _age(path: Path) -> str:
    return duration(time.time() - path.stat().st_mtime)


def _updates_of_others(base: Path, stage: str) -> str:
    """Return the updates of a finished run of the stage: arms are matched, so all have as many."""
    for path in sorted((base / "perf" / stage).glob("*.json")):
        done = json.loads(path.read_text(encoding="utf-8"))
        if updates := done.get("updates", 0) + done.get("resumed_from_update", 0):
            return f" of {updates}"
    return ""


def last_run(logs: Path) -> RunProgress | None:
    """Return what the newest of Snakemake's logs says, if there is one with jobs."""
    files = sorted(logs.glob("*.snakemake.log"), key=lambda path: path.stat().st_mtime)
    if not files:
        return None
    run = RunProgress()
    for _ in run.feed(files[-1].read_text(encoding="utf-8", errors="replace").splitlines()):
        pass
    return run if run.total else None


def describe(experiment: str, stages: Mapping[str, Sequence[str]]) -> str:
    """Return the status of an experiment as text.

    Args:
        experiment: its name.
        stages: files by stage, see :func:`recap.config.stages.stage_files`.
    """
    rows = [stage_status(name, files) for name, files in stages.items()]
    base = Path("results") / experiment
    alive = controllers()
    lines = [f"Experiment {experiment}: {_state(rows, alive)}", ""]
    lines += [f"  {'stage':<22}{'done':>6} {'of':>6}  {'left':>8}  rate of a job"]
    lines += [_line(row) for row in rows]
    if alive and (run := last_run(Path(".snakemake/log"))):
        left = sum(stage.total - stage.done for stage in run.stages.values())
        lines += ["", f"This run: {run.done} of {run.total} jobs done, {left} to go"]
    if working := list(work_in_progress(base)):
        lines += ["", "Begun and kept on disk:", *(f"  {line}" for line in working)]
    if alive and (gpu := gpu_use()):
        lines += ["", gpu]
    return "\n".join([*lines, *_conclusion(experiment, rows, alive)]) + "\n"


def _state(rows: Sequence[StageStatus], alive: Sequence[int]) -> str:
    done, total = sum(row.done for row in rows), sum(row.total for row in rows)
    if alive:
        return f"running here (process {alive[0]}), {done} of {total} results"
    if done == total:
        return "finished"
    return f"not running here, {done} of {total} results" if done else "not begun"


def _line(row: StageStatus) -> str:
    left = "" if row.seconds_left == 0 else duration(row.seconds_left)
    return f"  {row.name:<22}{row.done:>6} {row.total:>6}  {left:>8}  {row.rate}".rstrip()


def _conclusion(experiment: str, rows: Sequence[StageStatus], alive: Sequence[int]) -> list[str]:
    """Return what failed, the verdict if there is one, and the command to go on with."""
    lines: list[str] = []
    finished = all(row.done == row.total for row in rows)
    if not finished and (failed := failed_logs(Path("logs") / experiment, 0.0)):
        lines += ["", "Logs that end in an error:", *(f"  {path}" for path in failed)]
    report = Path("results") / experiment / "report"
    if (report / "verdict.txt").is_file():
        verdict = (report / "verdict.txt").read_text(encoding="utf-8").strip()
        lines += ["", f"Report:  {report / 'report.html'}", f"Verdict: {verdict}"]
    if not alive and not finished:
        again = f"make demo EXPERIMENT={experiment}"
        lines += ["", f"Go on:   the command it was started with, such as {again}"]
    return lines
