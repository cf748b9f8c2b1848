"""The evidence gates of every run, as their stages wrote them down."""

from pathlib import Path
from typing import Any

from ..io import read_json
from .inputs import STAGES, ComparisonInputs, RunInputs, Stage

Row = dict[str, Any]
_OWN_BOUND = "each run's own bound"


def gate_summary(inputs: ComparisonInputs) -> list[Row]:
    """Return one row a gate over all runs.

    Rows carry ``gate``, ``bound`` (if the runs share it), ``values`` (the range
    over the runs, where they are numbers), ``passed`` (number of runs) and
    ``failed`` (names of runs).
    """
    gates: dict[str, Row] = {}
    values: dict[str, list[Any]] = {}
    for run in inputs.runs:
        for row in _run_gates(run):
            name = row["gate"]
            gate = gates.setdefault(
                name, {"gate": name, "bound": row["bound"], "passed": 0, "failed": []}
            )
            values.setdefault(name, []).append(row["value"])
            if row["bound"] != gate["bound"]:
                gate["bound"] = _OWN_BOUND
            if row["passed"]:
                gate["passed"] += 1
            else:
                gate["failed"].append(f"{run.arm} seed {run.seed}")
    return [{**gate, "values": _range(values[name])} for name, gate in gates.items()]


def stage_gates(run: RunInputs, stage: Stage) -> list[Row]:
    """Return the gates of a run's training stage, as :func:`read_gates` does."""
    if stage not in run.manifests:
        return []
    path = run.manifests[stage].with_name("gates.json")
    return read_gates(path) if path.is_file() else []


def _run_gates(run: RunInputs) -> list[Row]:
    found: list[tuple[str, list[Row]]] = [(stage, stage_gates(run, stage)) for stage in STAGES]
    named = (("adapter", run.check), ("merge", run.merge), ("parity", run.parity))
    found += [
        (name, read_gates(path)) for name, path in named if path is not None and path.is_file()
    ]
    return [
        {**row, "gate": f"{source}: {row['gate'].replace('_', ' ')}"}
        for source, rows in found
        for row in rows
    ]


def read_gates(path: Path) -> list[Row]:
    """Return the gates of one file: ``gate``, ``value``, ``bound``, ``passed``.

    Understands training's ``gates.json``, the adapter's check, the merge
    report and the parity report. A file of another form counts as failed.
    """
    document = read_json(path)
    if isinstance(document.get("gates"), list):
        return [
            _gate(gate["name"], gate.get("value"), str(gate.get("bound", "")), gate["passed"])
            for gate in document["gates"]
        ]
    if "failures" in document:
        tensors = document.get("adapter_tensors")
        bound = f"{document.get('expected_tensors', 'all')} tensors, none at fault"
        return [_gate("tensors", tensors, bound, not document["failures"])]
    if "merged_modules" in document:
        changed = document["merged_modules"] - document.get("unchanged_modules", 0)
        bound = f"> 0 of {document['merged_modules']} modules changed"
        return [_gate("changed modules", changed, bound, changed > 0)]
    if "prompts" in document:
        bound = f"all of {len(document['prompts'])} prompts agree with the unmerged model"
        agreed = sum(bool(prompt["passed"]) for prompt in document["prompts"])
        return [_gate("prompts", agreed, bound, document["passed"])]
    return [_gate("report of unknown form", None, "", passed=False)]


def _gate(name: str, value: Any, bound: str, passed: bool) -> Row:
    return {"gate": str(name), "value": value, "bound": bound, "passed": bool(passed)}


def _range(values: list[Any]) -> str:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) != len(values) or not numbers:
        return ""
    low, high = (f"{number:.4g}" for number in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"
