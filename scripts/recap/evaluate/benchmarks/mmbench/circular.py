"""CircularEval: a question counts only if every rotation of its options is answered rightly."""

import re
from collections.abc import Mapping
from typing import Any

from .table import LETTERS, ROTATION

_LETTER = re.compile(rf"(?<![A-Za-z0-9])([{LETTERS}])(?![A-Za-z0-9])")


def extract_letter(text: str) -> str | None:
    """Return the first A, B, C or D that stands alone in ``text``, if any."""
    match = _LETTER.search(text)
    return match.group(1) if match else None


def group_rotations(indices: list[int]) -> dict[int, list[int]]:
    """Return the rows of each base question, both in order of index.

    Raises:
        ValueError: naming rows that have no base question.
    """
    groups: dict[int, list[int]] = {index: [] for index in sorted(indices) if index < ROTATION}
    orphans = [index for index in indices if index % ROTATION not in groups]
    if orphans:
        raise ValueError(f"rows without their unrotated question: {orphans[:5]}")
    for index in sorted(indices):
        groups[index % ROTATION].append(index)
    return groups


def judge(rows: list[int], keys: Mapping[int, str], given: Mapping[int, str]) -> dict[str, Any]:
    """Judge one base question.

    Args:
        rows: indices of its rotations, the unrotated one first.
        keys: the right letter by index.
        given: the answer by index.

    Returns:
        0 or 1 as ``circular`` and ``vanilla``, comparing the whole answer with
        the letter as the challenge does, and ``circular_robust`` and
        ``vanilla_robust`` on extracted letters; the answers and letters used.
    """
    strict = [given[row] == keys[row] for row in rows]
    letters = [extract_letter(given[row]) for row in rows]
    robust = [letter == keys[row] for letter, row in zip(letters, rows, strict=True)]
    return {
        "circular": float(all(strict)),
        "vanilla": float(strict[0]),
        "circular_robust": float(all(robust)),
        "vanilla_robust": float(robust[0]),
        "answers": [given[row] for row in rows],
        "letters": [letter or "-" for letter in letters],
    }
