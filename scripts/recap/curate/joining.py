"""Putting the steps of a recipe together: one funnel, one list of drops a shard."""

from pathlib import Path
from typing import Any

from ..errors import GateError
from ..io import iter_jsonl, read_json, write_json, write_jsonl
from .records import read_records


def join_steps(
    records: str | Path,
    *,
    step_counts: list[str | Path],
    step_drops: list[str | Path],
    kept: str | Path,
    drops: str | Path,
    counts: str | Path,
) -> dict[str, Any]:
    """Write a shard's outcome as a recipe of filters alone would have.

    Args:
        records: what the last step left.
        step_counts: the counts of each step, in order.
        step_drops: the drops of the steps that drop, in order.
        kept: the records, unchanged.
        drops: the drops of all steps.
        counts: records in and out, as a whole and an operator; also returned.

    Raises:
        GateError: if a step does not begin with what the one before it left.
    """
    documents = [read_json(path) for path in step_counts]
    for path, before, after in zip(step_counts[1:], documents, documents[1:], strict=False):
        if before["records_out"] != after["records_in"]:
            raise GateError(
                f"{path}: {after['records_in']} records in, but the step before it left "
                f"{before['records_out']}"
            )
    rows = read_records(records)
    dropped = [row for path in step_drops for row in iter_jsonl(path)]
    first = documents[0]["records_in"]
    if len(rows) != documents[-1]["records_out"] or len(rows) + len(dropped) != first:
        raise GateError(f"{records}: {first} in, {len(rows)} kept, {len(dropped)} dropped")
    document = {
        "records_in": first,
        "records_out": len(rows),
        "rejected": len(dropped),
        "operators": [step for document in documents for step in document["operators"]],
    }
    write_jsonl(kept, rows)
    write_jsonl(drops, dropped)
    write_json(counts, document)
    return document
