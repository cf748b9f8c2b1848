"""What a run would do: jobs, reasons, GPU-hours, wall time, critical path, disk."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .dryrun import PlannedJob
from .durations import Durations, Expected
from .schedule import Capacity, critical_path, wall_seconds

FORMAT = 1
Document = dict[str, Any]


def make_plan(
    jobs: Sequence[PlannedJob], durations: Durations, capacity: Capacity, experiment: str
) -> Document:
    """Return the plan of a run as a document.

    Args:
        jobs: of the dry run.
        durations: says how long they take.
        capacity: of the machine or cluster.
        experiment: its name.
    """
    jobs = [job for job in jobs if job.rule != "all"]
    expected = {job.number: durations.expect(job) for job in jobs}
    seconds = {number: one.seconds for number, one in expected.items()}
    path = critical_path(jobs, seconds)
    return {
        "format": FORMAT,
        "experiment": experiment,
        "capacity": vars(capacity),
        "jobs": len(jobs),
        "why": dict(Counter(job.why for job in jobs).most_common()),
        "gpu_hours": round(sum(seconds[job.number] * job.gpus for job in jobs) / 3600, 3),
        "core_hours": round(sum(seconds[job.number] * job.threads for job in jobs) / 3600, 3),
        "wall_seconds": round(wall_seconds(jobs, seconds, capacity), 1),
        "critical_seconds": round(sum(seconds[job.number] for job in path), 1),
        "critical_path": _chain(path, seconds),
        "disk_mb": round(sum(one.disk_mb for one in expected.values())),
        "measured_share": _measured_share(expected),
        "rules": [_rule_row(rule, jobs, expected) for rule in _in_order(jobs)],
    }


def _in_order(jobs: Sequence[PlannedJob]) -> list[str]:
    return list(dict.fromkeys(job.rule for job in jobs))


def _rule_row(rule: str, jobs: Sequence[PlannedJob], expected: dict[int, Expected]) -> Document:
    mine = [job for job in jobs if job.rule == rule]
    ours = [expected[job.number] for job in mine]
    return {
        "rule": rule,
        "jobs": len(mine),
        "why": dict(Counter(job.why for job in mine).most_common()),
        "seconds": round(sum(one.seconds for one in ours), 1),
        "gpu_hours": round(
            sum(one.seconds * job.gpus for one, job in zip(ours, mine, strict=True)) / 3600, 3
        ),
        "disk_mb": round(sum(one.disk_mb for one in ours)),
        "measured": all(one.measured for one in ours),
    }


def _chain(path: Sequence[PlannedJob], seconds: dict[int, float]) -> list[Document]:
    return [
        {
            "rule": job.rule,
            "wildcards": {k: v for k, v in job.wildcards.items() if k != "experiment"},
            "seconds": round(seconds[job.number], 1),
        }
        for job in path
    ]


def _measured_share(expected: dict[int, Expected]) -> float:
    """Return the share of the expected time that rests on this experiment's own figures."""
    total = sum(one.seconds for one in expected.values())
    known = sum(one.seconds for one in expected.values() if one.measured)
    return round(known / total, 3) if total else 1.0


def describe(plan: Document) -> str:
    """Return a plan in words."""
    if not plan["jobs"]:
        return "Nothing to do: every result is up to date.\n"
    capacity = plan["capacity"]
    lines = [f"{'rule':<30}{'jobs':>6}{'hours':>9}{'GPU h':>9}{'MB':>9}  why"]
    for row in plan["rules"]:
        why = ", ".join(f"{word} ({count})" for word, count in row["why"].items())
        mark = "" if row["measured"] else "~"
        lines.append(
            f"{row['rule']:<30}{row['jobs']:>6}{mark + _hours(row['seconds']):>9}"
            f"{row['gpu_hours']:>9.2f}{row['disk_mb']:>9}  {why}"
        )
    chain = " > ".join(step["rule"] for step in plan["critical_path"])
    lines += [
        "",
        f"jobs            {plan['jobs']}",
        f"GPU-hours       {plan['gpu_hours']:.2f}",
        f"core-hours      {plan['core_hours']:.2f}",
        f"wall time       {_hours(plan['wall_seconds'])} h with {capacity['gpus']} GPUs, "
        f"{capacity['cores'] or 'any number of'} cores and {capacity['jobs']} jobs at a time",
        f"critical path   {_hours(plan['critical_seconds'])} h: {chain}",
        f"disk            {plan['disk_mb'] / 1000:.1f} GB",
        f"measured        {100 * plan['measured_share']:.0f} % of the time; ~ marks priors "
        "(config/priors.tsv)",
    ]
    return "\n".join(lines) + "\n"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"
