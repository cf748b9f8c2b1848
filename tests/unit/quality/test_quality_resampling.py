"""Intervals: the right width, pairing, too few blocks, and things never seen."""

import math

import numpy as np
import pytest
from quality_corpora import zipf_captions

from recap.quality.diversity import hdd, mattr, mtld
from recap.quality.resampling import (
    Statistic,
    block_length,
    estimate,
    estimate_difference,
    mean_of,
    share_of,
)
from recap.quality.texts import number_words
from recap.settings import QualitySettings

SETTINGS = QualitySettings(bootstrap_samples=400)


def width(found):
    return found.interval[1] - found.interval[0]


def test_the_interval_of_a_mean_is_the_textbook_one():
    values = np.random.default_rng(0).normal(5, 2, 1000)
    found = estimate(mean_of(values), QualitySettings(bootstrap_samples=4000))
    assert found.value == pytest.approx(values.mean())
    assert width(found) == pytest.approx(2 * 1.96 * values.std() / math.sqrt(1000), rel=0.06)
    assert found.blocks == 1000


def test_pairing_takes_out_what_both_arms_share():
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 10, 500)
    arm, reference = mean_of(shared + 1), mean_of(shared)
    found = estimate_difference(arm, reference, SETTINGS)
    assert found.value == pytest.approx(1)
    assert found.interval == pytest.approx((1, 1))
    alone = estimate(arm, SETTINGS)
    assert width(alone) > 1


def test_an_arm_against_itself_differs_by_nothing():
    text = number_words(zipf_captions(np.random.default_rng(0), 1500))
    for measure in (mtld, mattr, hdd):
        found = estimate_difference(measure(text), measure(text), SETTINGS)
        assert (found.value, found.interval) == (0, (0, 0))


def test_equal_settings_give_equal_numbers_and_the_seed_matters():
    values = mean_of(np.random.default_rng(0).random(100))
    one, two = (estimate(values, SETTINGS) for _ in range(2))
    assert one == two
    assert one != estimate(values, SETTINGS.model_copy(update={"seed": 1}))


def test_too_few_blocks_give_no_interval():
    assert estimate(mean_of(np.arange(7)), SETTINGS).interval is None
    assert estimate(mean_of(np.arange(8)), SETTINGS).interval is not None
    long = Statistic(mean_of(np.arange(100)).parts, block=20)
    assert estimate(long, SETTINGS).interval is None


def test_blocks_stay_below_four_thousand():
    assert block_length(4000, 1) == 1
    assert block_length(400_000, 1) == 100
    assert block_length(400_000, 120) == 120


def test_what_was_never_seen_is_bounded_by_the_exact_interval():
    """For none of n, Clopper and Pearson's bound is 1 - (alpha/2)^(1/n)."""
    from scipy.stats import binomtest

    none = share_of(np.zeros(200))
    exact = binomtest(0, 200).proportion_ci(method="exact")
    assert estimate(none, SETTINGS).interval == pytest.approx((exact.low, exact.high))
    every = binomtest(200, 200).proportion_ci(method="exact")
    found = estimate(share_of(np.ones(200)), SETTINGS)
    assert found.interval == pytest.approx((every.low, every.high))
    difference = estimate_difference(none, none, SETTINGS)
    assert difference.interval == pytest.approx((-exact.high, exact.high))


def test_the_interval_of_a_share_stays_a_share():
    rare, most = np.zeros(40), np.ones(40)
    rare[3], most[5] = 1, 0
    low, high = estimate(share_of(rare), SETTINGS).interval
    assert low == 0 < 1 / 40 < high < 1
    low, high = estimate(share_of(most), SETTINGS).interval
    assert 0 < low < 39 / 40 < 1 == high
    gap = estimate_difference(share_of(most), share_of(np.zeros(40)), SETTINGS)
    assert gap.interval[1] == 1
    means = estimate(mean_of(rare), SETTINGS)
    assert means.interval[0] < 0, "a mean has no bounds that are known"


def test_arms_of_different_length_are_not_paired():
    with pytest.raises(ValueError, match="cannot be paired"):
        estimate_difference(mean_of(np.ones(10)), mean_of(np.ones(9)), SETTINGS)


@pytest.mark.parametrize("measure", [mtld, mattr, hdd])
def test_intervals_are_as_wide_as_corpora_differ(measure):
    """Sixty corpora of one distribution: the spread of their values is what one interval says."""
    rng = np.random.default_rng(11)
    values, widths = [], []
    for number in range(60):
        statistic = measure(number_words(zipf_captions(rng, 1200)))
        values.append(statistic.value)
        if number < 12:
            widths.append(width(estimate(statistic, SETTINGS)))
    expected = 2 * 1.96 * np.std(values, ddof=1)
    assert 0.75 < np.mean(widths) / expected < 1.4
