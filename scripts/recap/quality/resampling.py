"""Bootstrap intervals over records, for means and for statistics of running text.

Every statistic here is brought to the form of a ratio of sums over records, or
a mean of such ratios: a mean is sum over count, MATTR is the sum of its
windows' ratios over their number, MTLD is tokens over factors. A resample of
records is then a vector of weights, all resamples are one product of matrices,
and no text is ever counted twice.

Where neighbouring records share a window or a factor, blocks of consecutive
records are resampled (the block bootstrap of Carlstein 1986; Davison and
Hinkley 1997, section 8.2.3). Rebuilding the text from records drawn with
replacement would not do: a record drawn twice repeats its own words, which
lowers every measure of diversity.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..settings import QualitySettings

FloatArray = NDArray[np.float64]

FEWEST_BLOCKS = 8
"""Fewer units than this give no interval."""
_MOST_BLOCKS = 4000
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Statistic:
    """A statistic as a mean of ratios of sums.

    Attributes:
        parts: (numerators, denominators) of each ratio, both (n,), one entry a unit.
        units: what is resampled, for the reader: ``records`` or ``draws``.
        block: fewest consecutive units that are resampled together.
        known: units that carry a value, where not all do.
        share: whether every unit has the value 0 or 1.
    """

    parts: tuple[tuple[FloatArray, FloatArray], ...]
    units: str = "records"
    block: int = 1
    known: int | None = None
    share: bool = False

    @property
    def size(self) -> int:
        """Return the number of units."""
        return int(self.parts[0][0].size)

    @property
    def counted(self) -> int:
        """Return the units that carry a value."""
        return self.size if self.known is None else self.known

    @property
    def value(self) -> float:
        """Return the statistic itself."""
        return float(np.mean([top.sum() / bottom.sum() for top, bottom in self.parts]))


def mean_of(values: NDArray[np.generic]) -> Statistic:
    """Return the mean of one value a record, as a statistic."""
    numbers = values.astype(np.float64)
    return Statistic(((numbers, np.ones_like(numbers)),))


def share_of(values: FloatArray) -> Statistic:
    """Return the share of ones among zeros and ones, as a statistic."""
    return Statistic(((values, np.ones_like(values)),), share=True)


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; ``None`` where there are too few units for one."""

    value: float
    interval: tuple[float, float] | None
    blocks: int
    block: int

    def as_dict(self) -> dict[str, object]:
        """Return the estimate for a JSON document."""
        return {
            "value": self.value,
            "interval": None if self.interval is None else list(self.interval),
            "blocks": self.blocks,
            "units_a_block": self.block,
        }


def block_length(size: int, wanted: int) -> int:
    """Return units a block: as many as wanted, or more to keep blocks below 4,000."""
    return max(wanted, math.ceil(size / _MOST_BLOCKS), 1)


def estimate(statistic: Statistic, settings: QualitySettings) -> Estimate:
    """Return a statistic with its bootstrap interval."""
    return _estimate([statistic], [1.0], settings)


def estimate_difference(
    arm: Statistic, reference: Statistic, settings: QualitySettings
) -> Estimate:
    """Return ``arm`` minus ``reference`` with an interval; units are paired in order."""
    if arm.size != reference.size:
        raise ValueError(f"{arm.size} units against {reference.size} cannot be paired")
    return _estimate([arm, reference], [1.0, -1.0], settings)


def _estimate(
    statistics: Sequence[Statistic], signs: Sequence[float], settings: QualitySettings
) -> Estimate:
    value = sum(s * t.value for s, t in zip(signs, statistics, strict=True))
    size = statistics[0].size
    block = block_length(size, max(t.block for t in statistics))
    parts = [part for t in statistics for part in t.parts]
    shares = [
        sign / len(t.parts) for sign, t in zip(signs, statistics, strict=True) for _ in t.parts
    ]
    starts = np.arange(0, size, block)
    sums = [(np.add.reduceat(a, starts), np.add.reduceat(b, starts)) for a, b in parts]
    if starts.size < FEWEST_BLOCKS:
        return Estimate(value, None, int(starts.size), block)
    resampled = _resample(sums, shares, settings)
    if statistics[0].share and np.ptp(resampled) == 0:
        interval = _unseen(value, statistics[0].counted, settings.confidence)
    else:
        interval = _interval(value, resampled, int(starts.size), settings.confidence)
    if statistics[0].share:
        # Widening for few blocks knows no bounds; a share does, and so does a difference.
        lowest = 0.0 if len(signs) == 1 else -1.0
        interval = max(lowest, interval[0]), min(1.0, interval[1])
    return Estimate(value, interval, int(starts.size), block)


def _resample(
    sums: Sequence[tuple[FloatArray, FloatArray]],
    shares: Sequence[float],
    settings: QualitySettings,
) -> FloatArray:
    """Return the statistic of each resample, (samples,); none where nothing was drawn."""
    rng = np.random.default_rng(settings.seed)
    blocks = sums[0][0].size
    columns = np.stack([column for pair in sums for column in pair], axis=1)
    chunk = max(1, _CELLS_AT_ONCE // blocks)
    found = []
    for start in range(0, settings.bootstrap_samples, chunk):
        rows = min(chunk, settings.bootstrap_samples - start)
        weights = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=rows)
        totals = weights.astype(np.float64) @ columns
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = totals[:, ::2] / totals[:, 1::2]
        found.append(ratios @ np.array(shares))
    values = np.concatenate(found)
    return values[np.isfinite(values)]


def _interval(
    value: float, resampled: FloatArray, blocks: int, confidence: float
) -> tuple[float, float]:
    """Return a percentile interval, widened by sqrt(B/(B-1)) t/z for few blocks.

    The same correction as :func:`recap.compare.resampling.crossed_interval` makes.
    """
    tail = (1 + confidence) / 2
    wider = float(stats.t.ppf(tail, blocks - 1) / stats.norm.ppf(tail))
    deviations = (resampled - value) * wider * math.sqrt(blocks / (blocks - 1))
    low, high = np.quantile(value + deviations, [1 - tail, tail])
    return float(low), float(high)


def _unseen(value: float, units: int, confidence: float) -> tuple[float, float]:
    """Return the interval of a share, or a difference of shares, that no unit disturbs.

    No resample differs then, yet something seen in none of n records may still
    be there: the exact bound of Clopper and Pearson (1934) for 0 of n.
    """
    bound = -math.expm1(math.log((1 - confidence) / 2) / units)
    return value - bound, value + bound
