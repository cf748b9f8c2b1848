"""Where simulated experiments come from: a pool of scored questions with a known truth.

A replicate draws images from the pool with all their questions. For every run
(arm and seed) and image it takes the scores of one of the pool's runs at
random, so two arms differ by training noise alone, and questions of an image
keep together. Known effects are then put in: accuracy moves by ``u`` points
when a share u / (100 - mean) of all questions, drawn whatever their score, is
answered fully right, or a share -u / mean fully wrong.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from ..errors import RecapError
from .inputs import load_inputs
from .resampling import CrossedTable, FloatArray, IntArray
from .scores import load_scores


@dataclass(frozen=True)
class StatedModel:
    """The world without results: sizes as in TextVQA, answers mostly sure."""

    images: int = 3166
    questions: int = 5000
    runs: int = 40
    difficulty_beta: tuple[float, float] = (0.6, 0.6)
    correlation_within_image: float = 0.3


@dataclass(frozen=True)
class Pool:
    """Scores of runs that differ by their seed alone.

    Attributes:
        source: what it is, for readers.
        accuracy: (R, N) points, R runs, questions sorted by image.
        sizes: (C,) questions an image.
    """

    source: str
    accuracy: FloatArray
    sizes: IntArray

    @property
    def mean(self) -> float:
        """Return the mean accuracy in points."""
        return float(self.accuracy.mean())


@dataclass(frozen=True)
class Design:
    """An experiment to simulate.

    Attributes:
        seeds: training seeds an arm, paired between the arms.
        images: images of the benchmark.
        seed_sd: standard deviation, in points, of a run's accuracy because of
            its training seed.
    """

    seeds: int
    images: int
    seed_sd: float


def stated_pool(seed: int, model: StatedModel | None = None) -> Pool:
    """Return a pool drawn from a stated model.

    A question is answered right with a probability of its own, beta
    distributed; probabilities of questions of one image correlate through a
    Gaussian copula. Runs answer independently given these.
    """
    model = model or StatedModel()
    rng = np.random.default_rng(seed)
    more = rng.integers(0, model.images, model.questions - model.images)
    owners = np.sort(np.append(np.arange(model.images), more))
    shared = model.correlation_within_image
    normal = np.sqrt(shared) * rng.standard_normal(model.images)[owners]
    normal += np.sqrt(1 - shared) * rng.standard_normal(model.questions)
    chances = stats.beta.ppf(stats.norm.cdf(normal), *model.difficulty_beta)
    right = rng.random((model.runs, model.questions)) < chances
    return Pool("stated model", 100.0 * right, np.bincount(owners))


def results_pool(folder: Path, benchmark: str | None) -> Pool:
    """Return the pool of all seeds of a finished experiment's reference arm.

    Args:
        folder: ``results/<experiment>``; run where its paths are relative to.
        benchmark: its name; ``None`` takes the first one.

    Raises:
        RecapError: if there is no such benchmark, or only one seed.
    """
    inputs = load_inputs(folder / "compare" / "comparison_inputs.json")
    names = [item.name for item in inputs.benchmarks]
    name = benchmark or names[0]
    if name not in names:
        raise RecapError(f"{folder} has no benchmark {name}; it has {', '.join(names)}")
    if len(inputs.seeds) < 2:
        raise RecapError(
            f"{folder} has one seed, which shows no training noise to resample; "
            "give an experiment with two seeds or more, or leave --results out"
        )
    scores = load_scores(inputs, name)
    order = np.argsort(scores.images, kind="stable")
    source = f"{inputs.experiment}, {name}, {inputs.reference}, {len(inputs.seeds)} seeds"
    accuracy = scores.accuracy[inputs.reference][:, order]
    return Pool(source, accuracy, np.bincount(scores.images))


def room(pool: Pool) -> float:
    """Return the largest effect, in points, that :func:`draw` can put in."""
    return 0.8 * (100 - pool.mean)


def draw(
    pool: Pool, design: Design, effect: float, rng: np.random.Generator
) -> tuple[CrossedTable, float]:
    """Simulate the differences of two arms.

    Args:
        pool: where scores come from.
        design: seeds, images and the seeds' spread.
        effect: true difference of the two recipes, in points; the same
            questions gain in all seeds.
        rng: advanced.

    Returns:
        The table of differences, and the true difference of these very
        weights: the effect plus what the drawn seeds add to it.
    """
    picked = rng.integers(0, pool.sizes.size, design.images)
    sizes = pool.sizes[picked]
    starts = (np.cumsum(pool.sizes) - pool.sizes)[picked]
    images = np.repeat(np.arange(design.images), sizes)
    questions = np.arange(images.size) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
    offsets = design.seed_sd * rng.standard_normal((2, design.seeds))
    arms = []
    for arm in (0, 1):
        runs = rng.integers(0, len(pool.accuracy), (design.seeds, design.images))
        values = pool.accuracy[runs[:, images], questions]
        mean = pool.mean
        if arm == 1 and effect:
            values = _shifted(values, effect, mean, rng.random(images.size))
            mean += effect
        if design.seed_sd:
            values = np.stack(
                [
                    _shifted(row, offset, mean, rng.random(images.size))
                    for row, offset in zip(values, offsets[arm], strict=True)
                ]
            )
        arms.append(values)
    sums = np.stack([np.bincount(images, weights=row) for row in arms[1] - arms[0]])
    these = effect + float((offsets[1] - offsets[0]).mean())
    return CrossedTable(sums=sums.astype(np.float64), sizes=sizes.astype(np.float64)), these


def _shifted(values: FloatArray, points: float, mean: float, luck: FloatArray) -> FloatArray:
    if points >= 0:
        return np.where(luck < points / (100 - mean), 100.0, values)
    return np.where(luck < -points / mean, 0.0, values)
