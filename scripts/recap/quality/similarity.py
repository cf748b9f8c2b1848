"""How well the captions an arm trains on fit their images, from stored cosines."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..curate.policy import ORIGINAL
from ..curate.similarity import NEW_COLUMN, ORIGINAL_COLUMN, read_similarity
from .resampling import FloatArray
from .texts import ArmText

Scores = dict[str, tuple[float, float]]


def read_scores(tables: Sequence[str | Path]) -> Scores:
    """Return (original, new) cosine by id, from tables of ``score_similarity.py``."""
    scores: Scores = {}
    for path in tables:
        table = read_similarity(path)
        old, new = table.columns[ORIGINAL_COLUMN], table.columns[NEW_COLUMN]
        scores.update(zip(table.ids, zip(old, new, strict=True), strict=True))
    return scores


def original_similarity(arm: ArmText, scores: Scores) -> FloatArray:
    """Return the cosine of each record's original caption, (n,); NaN where unknown."""
    return np.array([scores.get(identity, (np.nan,))[0] for identity in arm.ids])


def chosen_similarity(arm: ArmText, scores: Scores, others: Scores | None = None) -> FloatArray:
    """Return the cosine of the caption each record got, (n,); NaN where unknown.

    Args:
        arm: the records.
        scores: of the arm's own captioner.
        others: of another arm, for originals that this one never scored.
    """
    known = (others or {}) | scores
    return np.array(
        [
            known.get(identity, (np.nan,))[0]
            if source == ORIGINAL
            else scores.get(identity, (np.nan, np.nan))[1]
            for identity, source in zip(arm.ids, arm.sources, strict=True)
        ]
    )
