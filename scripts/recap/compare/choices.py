"""Which caption the records of an arm got: counts and similarities."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..io import iter_jsonl

Row = dict[str, Any]
_SIMILARITIES = ("similarity_original", "similarity_new")


def caption_choice(decisions: Sequence[Path]) -> Row | None:
    """Return counts, threshold and mean similarities over an arm's decision tables.

    Args:
        decisions: files of ``apply_caption_policy.py --decisions``.

    Returns:
        ``records``, ``replaced``, ``kept``, ``threshold`` and the means
        ``similarity_original``, ``similarity_new`` and ``similarity_chosen``
        (cosines; none where nothing was scored); ``None`` without files.
    """
    rows = [row for path in decisions for row in iter_jsonl(path)]
    if not rows:
        return None
    old, new = _SIMILARITIES
    replaced = sum(row["replaced"] for row in rows)
    scored = [row for row in rows if row[old] is not None]
    return {
        "records": len(rows),
        "replaced": replaced,
        "kept": len(rows) - replaced,
        "threshold": rows[0]["threshold"],
        old: _mean([row[old] for row in scored]),
        new: _mean([row[new] for row in scored]),
        "similarity_chosen": _mean([row[new if row["replaced"] else old] for row in scored]),
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
