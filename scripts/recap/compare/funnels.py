"""The curation funnel of every arm, ready to be shown side by side."""

from typing import Any

from ..errors import GateError
from ..io import read_json
from .inputs import ComparisonInputs

Row = dict[str, Any]


def arm_funnels(inputs: ComparisonInputs) -> list[Row]:
    """Return each arm's funnel: ``arm``, ``description``, ``trained``, ``steps``, ``reasons``.

    Steps carry ``name``, ``records_in``, ``records_out``, ``rejected`` and
    ``share`` of the first step's input that is left.

    Raises:
        GateError: if a funnel's numbers do not add up.
    """
    funnels = []
    for arm in [*inputs.arms, *inputs.funnel_arms]:
        if arm.funnel is None:
            continue
        document = read_json(arm.funnel)
        stages = document["stages"]
        _require_sums(str(arm.funnel), stages)
        total = stages[0]["records_in"] if stages else 0
        funnels.append(
            {
                "arm": arm.arm,
                "description": arm.description,
                "trained": arm in inputs.arms,
                "records_in": total,
                "records_out": stages[-1]["records_out"] if stages else 0,
                "steps": [_step(stage, total) for stage in stages],
                "reasons": dict(
                    sorted(
                        document.get("rejects_by_reason", {}).items(),
                        key=lambda item: (-item[1], item[0]),
                    )
                ),
            }
        )
    return funnels


def _step(stage: Row, total: int) -> Row:
    name = stage["stage"]
    if stage.get("operator"):
        name = f"{name}: {stage['operator']}"
    return {
        "name": name,
        "records_in": stage["records_in"],
        "records_out": stage["records_out"],
        "rejected": stage["rejected"],
        "share": stage["records_out"] / total if total else 0.0,
        "seconds": stage.get("seconds"),
    }


def _require_sums(path: str, stages: list[Row]) -> None:
    previous = None
    for stage in stages:
        kept, rejected = stage["records_out"], stage["rejected"]
        if stage["records_in"] != kept + rejected or previous not in (None, stage["records_in"]):
            raise GateError(
                f"{path}: {stage['stage']} does not add up: {stage['records_in']} in, {kept} out, "
                f"{rejected} rejected, {previous} from the step before"
            )
        previous = kept
