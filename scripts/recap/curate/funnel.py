"""Where every record of an arm went, from raw line to training sample."""

from pathlib import Path
from typing import Any

from ..errors import GateError
from ..io import read_json

Stage = dict[str, Any]


def stage(name: str, operator: str | None, records_in: int, records_out: int) -> Stage:
    """Return one row of the funnel."""
    return {
        "stage": name,
        "operator": operator,
        "records_in": records_in,
        "records_out": records_out,
        "rejected": records_in - records_out,
    }


def validate_stage(report: dict[str, Any]) -> Stage:
    """Return the row of the validation."""
    return {
        "stage": "validate",
        "operator": None,
        "records_in": report["lines"],
        "records_out": report["accepted"],
        "rejected": report["rejected"],
    }


def operator_stages(name: str, counts: list[str | Path]) -> list[Stage]:
    """Return one row an operator, summed over the shards' counts files.

    Raises:
        GateError: if the shards were not run through the same operators.
    """
    documents = [read_json(path) for path in counts]
    chains = [[step["operator"] for step in document["operators"]] for document in documents]
    for path, chain in zip(counts, chains, strict=True):
        if chain != chains[0]:
            raise GateError(f"{path} went through {chain}, {counts[0]} through {chains[0]}")
    rows = []
    for index, operator in enumerate(chains[0] if chains else []):
        steps = [document["operators"][index] for document in documents]
        totals = {
            key: sum(step[key] for step in steps)
            for key in ("records_in", "records_out", "rejected")
        }
        rows.append({"stage": name, "operator": operator, **totals})
    return rows


def check_conservation(arm: str, stages: list[Stage], records: int) -> None:
    """Check that no record appears or disappears between or inside stages.

    Raises:
        GateError: naming the first stage whose counts do not add up.
    """
    previous = None
    for row in stages:
        where = f"{arm}: {row['stage']}" + (f" / {row['operator']}" if row["operator"] else "")
        if row["records_in"] != row["records_out"] + row["rejected"] or row["rejected"] < 0:
            raise GateError(
                f"{where}: {row['records_in']} in, but {row['records_out']} out "
                f"and {row['rejected']} rejected"
            )
        if previous is not None and row["records_in"] != previous:
            raise GateError(f"{where}: {row['records_in']} in, but {previous} came before it")
        previous = row["records_out"]
    if previous != records:
        raise GateError(f"{arm}: {previous} records should be left, but {records} were written")


def worst_operator(stages: list[Stage]) -> str:
    """Return the stage that rejected most, for an error message."""
    worst = max(stages, key=lambda row: row["rejected"])
    name = worst["operator"] or worst["stage"]
    return f"{name} dropped most: {worst['rejected']} of {worst['records_in']}"
