"""Closed forms of the crossed interval: p-value, half width, detectable effect.

With one seed a mean over its standard error is Student's t over images. With
several, the variance is the image part plus a seeds' part that S seeds leave
uncertain: max(0, (S - 1) between / x - noise) with x from the chi-squared
distribution with S - 1 degrees of freedom, a generalized pivotal quantity
(Weerahandi 1993; Hannig, Iyer and Patterson 2006). Everything here averages
Student's tail over x by the trapezoid rule.
"""

from dataclasses import replace
from functools import cache

import numpy as np
from scipy import special, stats
from scipy.optimize import elementwise

from .resampling import FloatArray, Spread

_NODES = 320
_LOG_RANGE = (-50.0, 6.5)
_DRAWS = 25
_HALVINGS = 40


def crossed_p_value(mean: float, spread: Spread) -> float:
    """Return the two-sided p-value of a mean, seeds' variance counted.

    It is the level at which the interval of
    :func:`~.resampling.crossed_interval` just reaches zero, images taken as normal.
    """
    if _is_constant(spread):
        return 1.0 if mean == 0 else 0.0
    return float(_tails(np.array([abs(mean)]), np.array([spread.between_variance]), spread)[0])


def half_width(spread: Spread, confidence: float) -> float:
    """Return half the width of the interval at ``confidence``, images taken as normal.

    Zero where nothing varies.
    """
    if _is_constant(spread):
        return 0.0
    between = np.array([spread.between_variance])
    return float(_half_widths(between, spread, 1 - confidence)[0])


def minimum_detectable_effect(spread: Spread, *, alpha: float, power: float) -> tuple[float, str]:
    """Return the smallest true difference this design would likely have found.

    With one seed (t_{1 - alpha/2} + t_{power}) standard errors (Bloom 1995).
    With several, the hurdle differs from experiment to experiment as the seeds
    agree or not, so the effect is solved for: the one whose p-value is below
    ``alpha`` in a share ``power`` of experiments with this image part and a
    between-seed variance whose median is the one observed, but at least the
    noise. In half of all experiments that says too little, in half too much;
    with two or three seeds it is far off often.

    Where nothing varies there is no standard error; then the share of images
    that could differ unseen is bounded by 1 - alpha^(1/C), the exact form of
    the rule of three (Hanley and Lippman-Hand 1983), and the effect by the
    same share of the scale.

    Args:
        spread: of the difference.
        alpha: two-sided level of the test.
        power: share of such experiments that would find the effect.

    Returns:
        The effect, and what sets it: ``standard error``, in its unit, or
        ``rule of three``, as a share of the scale, 0 to 1.
    """
    if _is_constant(spread):
        return 1 - alpha ** (1 / spread.images), "rule of three"
    if spread.seeds == 1:
        quantiles = stats.t.ppf([1 - alpha / 2, power], max(1, spread.images - 1))
        return float(quantiles.sum()) * spread.standard_error, "standard error"
    return _solved_effect(spread, alpha, power), "standard error"


def typical_between(spread: Spread) -> float:
    """Return the between-seed variance whose median estimate is the one observed.

    At least the noise: the truth cannot lie below it. Of two seeds the median is 0.45
    of the truth, so what they show is usually too little.
    """
    freedom = spread.seeds - 1
    typical = spread.between_variance * freedom / float(stats.chi2.median(freedom))
    return max(typical, spread.noise_variance)


def _is_constant(spread: Spread) -> bool:
    return spread.image_variance == 0 and spread.between_variance == 0


def _solved_effect(spread: Spread, alpha: float, power: float) -> float:
    freedom = spread.seeds - 1
    chances = (np.arange(_DRAWS) + 0.5) / _DRAWS
    ratios = stats.chi2.ppf(chances, freedom)
    truth = replace(spread, between_variance=typical_between(spread))
    hurdles = _half_widths(truth.between_variance * ratios / freedom, spread, alpha)
    low, high = 0.0, float(hurdles.max()) + 40 * truth.standard_error
    for _ in range(_HALVINGS):
        effect = (low + high) / 2
        found = special.ndtr((effect - hurdles) / truth.standard_error).mean()
        low, high = (effect, high) if found < power else (low, effect)
    return high


def _half_widths(between: FloatArray, spread: Spread, alpha: float) -> FloatArray:
    """Return the mean whose p-value is ``alpha`` for each between-seed variance, (B,)."""
    scale = np.sqrt(spread.image_variance + between)
    freedom = max(1, min(spread.images, max(2, spread.seeds)) - 1)
    high = scale * (10 + 4 * float(stats.t.isf(alpha / 2, freedom)) ** 2)
    found = elementwise.find_root(
        lambda means, variances: _tails(means, variances, spread) - alpha,
        (np.zeros_like(between), high),
        args=(between,),
        tolerances={"xrtol": 1e-6},
    )
    return np.asarray(found.x, dtype=np.float64)


def _tails(means: FloatArray, between: FloatArray, spread: Spread) -> FloatArray:
    """Return two-sided tail probabilities (B,) of ``means`` (B,) >= 0."""
    freedom = max(1, spread.images - 1)
    if spread.seeds == 1:
        scale = np.full((1, 1), np.sqrt(spread.image_variance))
        weights = np.ones(1)
    else:
        values, weights = _chi_squared_nodes(spread.seeds - 1)
        possible = (spread.seeds - 1) * between[:, None] / values - spread.noise_variance
        scale = np.sqrt(spread.image_variance + np.maximum(0.0, possible))
    # A scale of zero gives zero by zero only for a mean of zero, whose tail is 1.
    ratios = means[:, None] / np.maximum(scale, np.finfo(np.float64).tiny)
    return np.asarray(2 * special.stdtr(freedom, -ratios) @ weights, dtype=np.float64)


@cache
def _chi_squared_nodes(freedom: int) -> tuple[FloatArray, FloatArray]:
    """Return nodes, even in their logarithm, and weights that add up to 1."""
    logs = np.linspace(*_LOG_RANGE, _NODES)
    values = np.exp(logs)
    weights = stats.chi2.pdf(values, freedom) * values
    return values, weights / weights.sum()
