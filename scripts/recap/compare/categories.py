"""Differences within categories of questions: where to look, not what to conclude."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .crossed import half_width
from .resampling import FEWEST_IMAGES, FloatArray, IntArray, crossed_spread, crossed_table
from .scores import BenchmarkScores

Row = dict[str, Any]
_LONG = 3


def question_categories(scores: BenchmarkScores) -> dict[str, list[str]]:
    """Return the categories that hold for every arm: a value a question, by name.

    ``question_type``, ``has_ocr`` (at least one OCR token in the prompt) and
    ``answer_words`` (length of the reference answer, not of what was answered:
    it must not depend on the arm). A benchmark without one of them, or with one
    value of ``answer_words`` alone, lacks that category.
    """
    found = {
        name: [str(question[name]).lower() for question in scores.questions]
        for name in ("question_type", "has_ocr")
        if any(question[name] is not None for question in scores.questions)
    }
    lengths = [question["answer_words"] for question in scores.questions]
    if None not in lengths and len(set(map(_length, lengths))) > 1:
        found["answer_words"] = [_length(words) for words in lengths]
    return found


def _length(words: int | None) -> str:
    return f"{_LONG} or more" if words is not None and words >= _LONG else str(words)


def category_rows(
    categories: Mapping[str, Sequence[str]],
    images: IntArray,
    differences: FloatArray,
    confidence: float,
) -> list[Row]:
    """Return the difference within each category, with a closed-form interval.

    Fewer than eight images, or differences that are all alike, show no spread: then
    there is none.

    Args:
        categories: a value for each of N questions, by name.
        images: (N,) image number of each question.
        differences: (S, N) points.
        confidence: of the intervals, which are not adjusted for their number.
    """
    rows = []
    for name, labels in categories.items():
        values = np.array(labels)
        for value in np.unique(values):
            inside = values == value
            numbers = np.unique(images[inside], return_inverse=True)[1]
            table = crossed_table(differences[:, inside], numbers.astype(np.int64))
            enough = table.sizes.size >= FEWEST_IMAGES
            half = half_width(crossed_spread(table), confidence) if enough else 0.0
            rows.append(
                {
                    "category": name,
                    "value": str(value),
                    "questions": int(inside.sum()),
                    "images": int(table.sizes.size),
                    "difference": table.mean,
                    "interval": [table.mean - half, table.mean + half] if half > 0 else None,
                }
            )
    return rows
