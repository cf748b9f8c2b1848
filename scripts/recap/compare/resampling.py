"""Standard errors and intervals of differences over images crossed with seeds.

A difference is measured for every question under every training seed. Two
questions about one image go together, and so do all questions answered by one
set of weights, so the observations are crossed, not independent. Throughout:
``S`` seeds, ``C`` images (clusters), ``N`` questions, all float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class CrossedTable:
    """Sums per seed and image, enough for every statistic of a mean.

    Attributes:
        sums: (S, C), the values of an image's questions added up.
        sizes: (C,), questions an image.
    """

    sums: FloatArray
    sizes: FloatArray

    @property
    def mean(self) -> float:
        """Return the mean over questions and seeds."""
        return float(self.sums.sum() / (self.sums.shape[0] * self.sizes.sum()))

    @property
    def seed_means(self) -> FloatArray:
        """Return the mean over questions of each seed, (S,)."""
        return self.sums.sum(axis=1) / self.sizes.sum()


def crossed_table(values: FloatArray, images: IntArray) -> CrossedTable:
    """Add up ``values`` (S, N) over the questions of each image.

    Args:
        values: one value a seed and question.
        images: (N,) image number of each question, 0 to C - 1, each used.
    """
    sizes = np.bincount(images).astype(np.float64)
    sums = np.stack([np.bincount(images, weights=row) for row in values]).astype(np.float64)
    return CrossedTable(sums=sums, sizes=sizes)


@dataclass(frozen=True)
class Spread:
    """Variance of a mean, split by where it comes from.

    Attributes:
        image_variance: from the choice of images (and image-by-seed noise).
        seed_variance: from the training seeds; 0 where there is one seed.
        standard_error: square root of their sum.
        degrees_of_freedom: Welch-Satterthwaite, infinite if nothing varies.
    """

    image_variance: float
    seed_variance: float
    standard_error: float
    degrees_of_freedom: float


def crossed_spread(table: CrossedTable) -> Spread:
    """Return the two-way clustered variance of ``table.mean``.

    The image part is the one-way cluster-robust variance of the mean over
    seeds (Liang and Zeger 1986, factor C/(C-1)). The seed part is the
    variance of the seed means less what image-by-seed noise puts there, since
    the image part holds that already: the subtraction of Cameron, Gelbach and
    Miller (2011, eq. 2.11), floored at zero. Degrees of freedom follow
    Satterthwaite (1946).
    """
    seeds, images = table.sums.shape
    questions = table.sizes.sum()
    residuals = table.sums - table.mean * table.sizes
    image_part = _scale(images) * float(np.sum(residuals.sum(axis=0) ** 2))
    image_part /= (seeds * questions) ** 2
    seed_part = 0.0
    if seeds > 1:
        offsets = table.seed_means - table.mean
        inner = residuals - residuals.mean(axis=0) - offsets[:, None] * table.sizes
        noise = images * float(np.sum(inner**2)) / max(1, (seeds - 1) * (images - 1))
        between = float(np.sum(offsets**2)) / (seeds * (seeds - 1))
        seed_part = max(0.0, between - noise / (seeds * questions**2))
    total = image_part + seed_part
    split = image_part**2 / max(1, images - 1) + seed_part**2 / max(1, seeds - 1)
    freedom = total**2 / split if split > 0 else float("inf")
    return Spread(image_part, seed_part, float(np.sqrt(total)), freedom)


def _scale(clusters: int) -> float:
    return clusters / (clusters - 1) if clusters > 1 else 1.0


def bootstrap_means(table: CrossedTable, samples: int, seed: int) -> FloatArray:
    """Return ``samples`` bootstrap means (samples, S): one mean a seed and resample.

    Images are drawn with replacement with all their questions and all seeds
    (cluster bootstrap, Davison and Hinkley 1997, section 3.8); the mean is a
    ratio, since images hold different numbers of questions.
    """
    rng = np.random.default_rng(seed)
    images = table.sizes.size
    chunk = max(1, _CELLS_AT_ONCE // images)
    parts = []
    for start in range(0, samples, chunk):
        rows = min(chunk, samples - start)
        draws = rng.integers(0, images, size=(rows, images))
        flat = (draws + np.arange(rows)[:, None] * images).ravel()
        weights = np.bincount(flat, minlength=rows * images).reshape(rows, images)
        parts.append((weights @ table.sums.T) / (weights @ table.sizes)[:, None])
    return np.concatenate(parts)


def crossed_interval(
    table: CrossedTable, *, confidence: float, samples: int, seed: int
) -> tuple[float, float]:
    """Return a bootstrap interval of ``table.mean`` over images crossed with seeds.

    Each resample draws images with replacement. Two or three seeds are too
    few to be resampled the same way: a resample of two seeds has three
    possible values and half the true variance, and plain resampling of both
    (the pigeonhole bootstrap of Owen 2007, see :func:`pigeonhole_interval`)
    covered the truth in 68 % of simulated cases at a nominal 95 %. So the
    seeds' part of each resample is drawn from the t distribution with S - 1
    degrees of freedom, scaled to the seed variance of :func:`crossed_spread`.
    The image part is widened by sqrt(C/(C-1)) t/z for few images. Simulated
    coverage at 95 %: 0.93 to 0.97 with three seeds and with two seeds whose
    effect is small; 0.88 with two seeds whose effect dominates everything.

    With one seed the interval speaks about these weights only.
    """
    means = bootstrap_means(table, samples, seed).mean(axis=1)
    seeds, images = table.sums.shape
    tail = (1 + confidence) / 2
    wider = float(stats.t.ppf(tail, max(1, images - 1)) / stats.norm.ppf(tail))
    deviations = (means - table.mean) * wider * np.sqrt(_scale(images))
    seed_variance = crossed_spread(table).seed_variance
    if seed_variance > 0:
        rng = np.random.default_rng([seed, 1])
        deviations = deviations + np.sqrt(seed_variance) * rng.standard_t(seeds - 1, samples)
    low, high = np.quantile(table.mean + deviations, [1 - tail, tail])
    return float(low), float(high)


def pigeonhole_interval(
    table: CrossedTable, *, confidence: float, samples: int, seed: int
) -> tuple[float, float]:
    """Return the percentile interval of resampling images and seeds alike.

    The pigeonhole bootstrap of Owen (2007). Kept for readers who want it:
    too short when two seeds differ, too long when only noise does.
    """
    means = bootstrap_means(table, samples, seed)
    seeds = means.shape[1]
    rng = np.random.default_rng([seed, 2])
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=samples) / seeds
    tail = (1 + confidence) / 2
    low, high = np.quantile((means * weights).sum(axis=1), [1 - tail, tail])
    return float(low), float(high)
