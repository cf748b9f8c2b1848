"""Paired tests of a difference between two arms, and their correction."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .resampling import CrossedTable, FloatArray

BoolArray = NDArray[np.bool_]

_EXACT_CLUSTERS = 13
_CELLS_AT_ONCE = 4_000_000


def permutation_p_value(table: CrossedTable, *, samples: int, seed: int) -> float:
    """Return the two-sided p-value of flipping the sign of whole images.

    If the two arms answered equally well, swapping their answers to all
    questions of an image, in all seeds, would change nothing (Fisher's paired
    randomization test; for outputs of language systems see Yeh 2000). All
    flips are enumerated up to 13 images that differ; beyond, ``samples``
    random flips are drawn and p = (1 + hits) / (1 + samples), which is never
    zero and keeps its level (Phipson and Smyth 2010).
    """
    totals = table.sums.sum(axis=0)
    totals = totals[np.abs(totals) > 1e-12]
    if totals.size == 0:
        return 1.0
    # A relative tolerance: ties must count as ties whatever the order of summation.
    observed = abs(float(totals.sum())) - 1e-9 * float(np.abs(totals).sum())
    if totals.size <= _EXACT_CLUSTERS:
        bits = np.arange(2**totals.size)[:, None] >> np.arange(totals.size) & 1
        sums = np.abs((1.0 - 2.0 * bits) @ totals)
        return float(np.mean(sums >= observed))
    return (1 + _random_hits(totals, observed, samples, seed)) / (1 + samples)


def _random_hits(totals: FloatArray, observed: float, samples: int, seed: int) -> int:
    """Flip images of equal size of difference together: their flips are binomial."""
    rng = np.random.default_rng([seed, 3])
    sizes, counts = np.unique(np.abs(totals), return_counts=True)
    chunk = max(1, _CELLS_AT_ONCE // sizes.size)
    hits = 0
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        flipped = rng.binomial(counts, 0.5, size=(rows, sizes.size))
        sums = (counts - 2.0 * flipped) @ sizes
        hits += int(np.count_nonzero(np.abs(sums) >= observed))
    return hits


def mcnemar(first_right: BoolArray, second_right: BoolArray) -> tuple[int, int, float]:
    """Return questions only the first and only the second got right, and p.

    The exact two-sided binomial form (McNemar 1947; Fagerland et al. 2013).
    It takes questions as independent, so it stands beside the clustered
    permutation test and decides nothing.

    Args:
        first_right: (N,) booleans of one arm.
        second_right: (N,) booleans of the other.
    """
    first = np.asarray(first_right, dtype=bool)
    second = np.asarray(second_right, dtype=bool)
    only_first = int(np.count_nonzero(first & ~second))
    only_second = int(np.count_nonzero(second & ~first))
    discordant = only_first + only_second
    if discordant == 0:
        return 0, 0, 1.0
    return only_first, only_second, float(stats.binomtest(only_first, discordant, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down method (1979)."""
    count = len(p_values)
    order = sorted(range(count), key=lambda index: p_values[index])
    adjusted = [1.0] * count
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, (count - rank) * p_values[index])
        adjusted[index] = min(1.0, running)
    return adjusted
