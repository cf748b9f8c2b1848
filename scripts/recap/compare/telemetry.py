"""Training curves: read by stage, so that a stage only ever meets itself."""

from typing import Any

import numpy as np

from ..errors import GateError, RecapError
from ..io import read_json, read_jsonl
from ..manifest import read_manifest
from .gates import stage_gates
from .inputs import STAGES, ComparisonInputs, RunInputs, Stage

Row = dict[str, Any]
METRICS = ("updates_to_convergence", "grad_norm_variation")


def stage_curves(inputs: ComparisonInputs) -> dict[Stage, list[Row]]:
    """Return each stage's curves, in the order of arms and seeds.

    Returns:
        Stage to curves; a curve has ``arm``, ``seed`` and lists of equal
        length ``step``, ``loss``, ``grad_norm``, ``learning_rate``, ``spike``;
        ``gates_passed`` is none where the stage left no gates, ``metrics`` what
        the run computed over all its updates, logged or not.

    Raises:
        GateError: if a run's manifest names another stage than its telemetry
            is filed under: losses of different stages are never compared.
        RecapError: if a row lacks a value.
    """
    curves: dict[Stage, list[Row]] = {}
    for stage in STAGES:
        runs = [run for run in inputs.runs if stage in run.telemetry]
        order = {arm: index for index, arm in enumerate(inputs.arm_names)}
        runs.sort(key=lambda run: (order[run.arm], run.seed))
        if runs:
            curves[stage] = [_curve(run, stage) for run in runs]
    return curves


def _curve(run: RunInputs, stage: Stage) -> Row:
    _require_stage(run, stage)
    rows = read_jsonl(run.telemetry[stage])
    names = ("step", "loss", "grad_norm", "learning_rate", "spike")
    for number, row in enumerate(rows, start=1):
        missing = [name for name in names if row.get(name) is None]
        if missing:
            path = run.telemetry[stage]
            raise RecapError(f"{path}, row {number}: lacks {', '.join(missing)}")
    if not rows:
        raise GateError(f"{run.telemetry[stage]}: no update was logged")
    columns = {name: [row[name] for row in rows] for name in names}
    gates = stage_gates(run, stage)
    passed = all(gate["passed"] for gate in gates) if gates else None
    metrics = read_json(run.metrics[stage]) if stage in run.metrics else {}
    return {
        "arm": run.arm,
        "seed": run.seed,
        "gates_passed": passed,
        "metrics": {name: metrics.get(name) for name in METRICS},
        **columns,
    }


def _require_stage(run: RunInputs, stage: Stage) -> None:
    if stage not in run.manifests:
        return
    manifest = read_manifest(run.manifests[stage])
    stated = manifest.get("details", {}).get("stage", stage)
    if stated != stage:
        raise GateError(
            f"{run.manifests[stage]}: describes stage {stated}, but is filed under {stage}; "
            "losses of different stages are never compared"
        )


def curve_summary(curve: Row) -> Row:
    """Return first and last loss, means, largest gradient norm, and the run's metrics.

    ``tail_loss`` is the mean over the last tenth of the logged updates; what
    ``METRICS`` names is defined in :mod:`recap.train.stability`.
    """
    loss = np.array(curve["loss"], dtype=np.float64)
    norms = np.array(curve["grad_norm"], dtype=np.float64)
    tail = max(1, loss.size // 10)
    return {
        "arm": curve["arm"],
        "seed": curve["seed"],
        "updates": int(curve["step"][-1]),
        "first_loss": float(loss[0]),
        "last_loss": float(loss[-1]),
        "tail_loss": float(loss[-tail:].mean()),
        "lowest_loss": float(loss.min()),
        "highest_grad_norm": float(norms.max()),
        **curve["metrics"],
        "spikes": sum(curve["spike"]),
    }
