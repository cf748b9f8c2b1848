"""The statistics of one pair of arms on one benchmark, and of one arm alone."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..hashing import derived_seed
from ..settings import CompareSettings
from .categories import category_rows, question_categories
from .crossed import crossed_p_value, minimum_detectable_effect
from .resampling import (
    CrossedTable,
    FloatArray,
    Spread,
    crossed_interval,
    crossed_spread,
    crossed_table,
    pigeonhole_interval,
)
from .scores import BenchmarkScores
from .significance import mcnemar, permutation_p_value

Row = dict[str, Any]
_RIGHT = 50.0


def summarize_arm(scores: BenchmarkScores, arm: str, settings: CompareSettings) -> Row:
    """Return accuracy in points of one arm with interval, spread and variety of answers."""
    values = scores.accuracy[arm]
    table = crossed_table(values, scores.images)
    low, high = crossed_interval(
        table,
        confidence=settings.confidence,
        samples=settings.bootstrap_samples,
        seed=derived_seed(settings.seed, scores.benchmark, arm),
    )
    return {
        "arm": arm,
        "accuracy": table.mean,
        "interval": [max(0.0, low), min(100.0, high)],
        "standard_error": crossed_spread(table).standard_error,
        "seed_accuracy": [float(mean) for mean in table.seed_means],
        "seed_standard_deviation": _deviation(table.seed_means),
        "distinct_answers": [int(np.unique(row).size) for row in scores.normalized[arm]],
    }


def contrast_arms(
    scores: BenchmarkScores,
    arm: str,
    reference: str,
    settings: CompareSettings,
    *,
    comparisons: int,
    extra: Mapping[str, Sequence[str]] | None = None,
) -> Row:
    """Return everything about ``arm`` minus ``reference``, in points, but the verdict.

    Args:
        scores: the benchmark's aligned scores.
        arm: the arm in question.
        reference: the arm it is compared with.
        settings: confidence, resamples, power, seed.
        comparisons: size of the family that p-values are adjusted over; the
            minimum detectable effect is stated at confidence level
            1 - (1 - confidence) / comparisons, the first step of Holm.
        extra: further categories of the questions, a value for each, by name.
    """
    differences = scores.accuracy[arm] - scores.accuracy[reference]
    table = crossed_table(differences, scores.images)
    return {
        "arm": arm,
        "reference": reference,
        "benchmark": scores.benchmark,
        "questions": differences.shape[1],
        "images": scores.image_count,
        "seeds": differences.shape[0],
        **_uncertainty(scores, table, (arm, reference), settings, comparisons),
        "seed_differences": [float(mean) for mean in table.seed_means],
        "seed_standard_deviation": _deviation(table.seed_means),
        "mcnemar": _mcnemar(scores, arm, reference),
        "changed_answers": _changed(scores, arm, reference, differences),
        "categories": category_rows(
            {**question_categories(scores), **(extra or {})},
            scores.images,
            differences,
            settings.confidence,
        ),
    }


def weigh_difference(table: CrossedTable, settings: CompareSettings, seed: int) -> Row:
    """Return what a verdict on ``table.mean`` rests on: interval and p-values.

    Args:
        table: differences of two arms, points.
        settings: confidence and resamples.
        seed: of the resampling.
    """
    low, high = crossed_interval(
        table, confidence=settings.confidence, samples=settings.bootstrap_samples, seed=seed
    )
    by_images = permutation_p_value(table, samples=settings.permutation_samples, seed=seed)
    by_seeds = crossed_p_value(table.mean, crossed_spread(table))
    several = table.sums.shape[0] > 1
    return {
        "difference": table.mean,
        "interval": [low, high],
        "p_permutation": by_images,
        "p_crossed": by_seeds,
        "p_value": max(by_images, by_seeds) if several else by_images,
    }


def detectable_effect(
    spread: Spread, settings: CompareSettings, comparisons: int
) -> tuple[float, str]:
    """Return the minimum detectable effect in points, and what sets it."""
    effect, method = minimum_detectable_effect(
        spread,
        alpha=(1 - settings.confidence) / max(1, comparisons),
        power=settings.power,
    )
    return (100 * effect if method == "rule of three" else effect), method


def _uncertainty(
    scores: BenchmarkScores,
    table: CrossedTable,
    arms: tuple[str, str],
    settings: CompareSettings,
    comparisons: int,
) -> Row:
    spread = crossed_spread(table)
    seed = derived_seed(settings.seed, scores.benchmark, *arms)
    effect, method = detectable_effect(spread, settings, comparisons)
    pigeonhole = pigeonhole_interval(
        table, confidence=settings.confidence, samples=settings.bootstrap_samples, seed=seed
    )
    return {
        **weigh_difference(table, settings, seed),
        "pigeonhole_interval": list(pigeonhole),
        "standard_error": spread.standard_error,
        "seed_variance_share": _share(spread.seed_variance, spread.standard_error**2),
        "degrees_of_freedom": _finite(spread.degrees_of_freedom),
        "minimum_detectable_effect": effect,
        "minimum_detectable_effect_method": method,
    }


def _mcnemar(scores: BenchmarkScores, arm: str, reference: str) -> Row:
    """Right is an accuracy, averaged over the seeds, of at least 50 points."""
    right = {name: scores.accuracy[name].mean(axis=0) >= _RIGHT for name in (arm, reference)}
    only_arm, only_reference, p_value = mcnemar(right[arm], right[reference])
    return {"only_arm": only_arm, "only_reference": only_reference, "p_value": p_value}


def _changed(
    scores: BenchmarkScores, arm: str, reference: str, differences: FloatArray
) -> dict[str, Any]:
    """Count (question, seed) pairs whose normalised answer differs."""
    changed = scores.normalized[arm] != scores.normalized[reference]
    return {
        "answers": int(changed.size),
        "count": int(np.count_nonzero(changed)),
        "gained": int(np.count_nonzero(differences > 0)),
        "lost": int(np.count_nonzero(differences < 0)),
    }


def _deviation(values: FloatArray) -> float | None:
    """Return the sample standard deviation, or ``None`` for a single value."""
    return float(np.std(values, ddof=1)) if values.size > 1 else None


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
