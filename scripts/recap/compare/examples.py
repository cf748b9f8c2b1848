"""Questions whose answer changed between two arms, drawn without looking."""

from typing import Any

import numpy as np

from ..hashing import stable_fraction
from .scores import BenchmarkScores

Row = dict[str, Any]


def changed_examples(scores: BenchmarkScores, arm: str, reference: str, count: int) -> list[Row]:
    """Return up to ``count`` questions whose normalised answer differs in the first seed.

    Half of them improved and half got worse where there are enough of both;
    within a half, and to fill up with changes that score the same, a hash of
    the question decides. Nobody picks the pretty ones.

    Returns:
        Rows ``question_id``, ``image``, ``question``, ``old``, ``new``,
        ``old_accuracy``, ``new_accuracy`` (points), ``truth`` (may be none),
        ``change`` (``better``, ``worse`` or ``same score``).
    """
    changed = np.flatnonzero(scores.normalized[arm][0] != scores.normalized[reference][0])
    rows = [_example(scores, arm, reference, int(index)) for index in changed]
    rows.sort(key=lambda row: stable_fraction("example", row["question_id"], row["question"]))
    better = [row for row in rows if row["change"] == "better"]
    worse = [row for row in rows if row["change"] == "worse"]
    same = [row for row in rows if row["change"] == "same score"]
    half = count // 2
    from_worse = min(len(worse), max(half, count - len(better)))
    from_better = min(len(better), count - from_worse)
    filled = same[: count - from_worse - from_better]
    return better[:from_better] + worse[:from_worse] + filled


def _example(scores: BenchmarkScores, arm: str, reference: str, index: int) -> Row:
    question = scores.questions[index]
    old = float(scores.accuracy[reference][0, index])
    new = float(scores.accuracy[arm][0, index])
    return {
        "question_id": str(question["question_id"]),
        "image": str(question["image"] or question["image_id"]),
        "question": str(question["question"]),
        "old": str(scores.predictions[reference][0, index]),
        "new": str(scores.predictions[arm][0, index]),
        "old_accuracy": old,
        "new_accuracy": new,
        "truth": question["truth"],
        "change": "better" if new > old else "worse" if new < old else "same score",
    }
