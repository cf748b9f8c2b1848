"""Statistics against closed forms, scipy, and simulated data of known truth."""

import time

import numpy as np
import pytest
from scipy import stats

from recap.compare.crossed import crossed_p_value, half_width, minimum_detectable_effect
from recap.compare.resampling import (
    CrossedTable,
    bootstrap_means,
    crossed_interval,
    crossed_spread,
    crossed_table,
    pigeonhole_interval,
)
from recap.compare.significance import holm, mcnemar, permutation_p_value


def simulate(
    rng: np.random.Generator,
    *,
    seeds: int,
    images: int,
    effect: float = 0.0,
    seed_sd: float = 0.0,
    image_sd: float = 0.0,
    noise_sd: float = 1.0,
) -> CrossedTable:
    sizes = rng.integers(1, 3, images)
    of_seed = seed_sd * rng.normal(size=(seeds, 1))
    of_image = image_sd * rng.normal(size=images)
    noise = noise_sd * rng.normal(size=(seeds, images)) * np.sqrt(sizes)
    sums = (effect + of_seed + of_image) * sizes + noise
    return CrossedTable(sums=sums, sizes=sizes.astype(float))


def binomial_bounds(count: int, probability: float) -> tuple[float, float]:
    """Return shares within four standard deviations; seeds are fixed, so no flakes."""
    deviation = 4 * np.sqrt(probability * (1 - probability) / count)
    return probability - deviation, probability + deviation


def test_table_adds_up_questions_of_an_image() -> None:
    values = np.array([[1.0, 2.0, 4.0, 8.0]])
    table = crossed_table(values, np.array([0, 1, 0, 1]))
    assert table.sums.tolist() == [[5.0, 10.0]]
    assert table.sizes.tolist() == [2.0, 2.0]
    assert table.mean == 3.75


def test_one_seed_one_question_an_image_is_the_textbook_standard_error() -> None:
    values = np.random.default_rng(1).normal(size=(1, 50))
    spread = crossed_spread(crossed_table(values, np.arange(50)))
    assert spread.standard_error == pytest.approx(stats.sem(values[0]))
    assert spread.degrees_of_freedom == pytest.approx(49)
    mean = float(values.mean())
    expected = stats.ttest_1samp(values[0], 0).pvalue
    assert crossed_p_value(mean, spread) == pytest.approx(expected)


def test_seed_only_variation_is_the_standard_error_of_seed_means() -> None:
    offsets = np.array([-2.0, 1.0, 4.0])
    table = CrossedTable(sums=np.repeat(offsets[:, None], 40, axis=1), sizes=np.ones(40))
    spread = crossed_spread(table)
    assert spread.image_variance == pytest.approx(0)
    assert spread.standard_error == pytest.approx(stats.sem(offsets))
    assert spread.degrees_of_freedom == pytest.approx(2)


def test_clustering_counts_repeated_questions_once() -> None:
    rng = np.random.default_rng(3)
    single = rng.normal(size=(1, 80))
    alone = crossed_spread(crossed_table(single, np.arange(80)))
    doubled = crossed_spread(crossed_table(np.repeat(single, 2, axis=1), np.repeat(range(80), 2)))
    assert doubled.standard_error == pytest.approx(alone.standard_error)


def test_variance_components_are_unbiased_enough() -> None:
    rng = np.random.default_rng(4)
    truth = {"seed_sd": 0.4, "image_sd": 0.5, "noise_sd": 1.0}
    tables = [simulate(rng, seeds=3, images=60, **truth) for _ in range(1500)]
    estimated = np.mean([crossed_spread(table).standard_error ** 2 for table in tables])
    actual = np.var([table.mean for table in tables])
    assert estimated == pytest.approx(actual, rel=0.12)


def test_bootstrap_agrees_with_the_closed_form() -> None:
    table = simulate(np.random.default_rng(5), seeds=2, images=400, image_sd=0.5)
    means = bootstrap_means(table, 4000, seed=7).mean(axis=1)
    assert means.std() == pytest.approx(np.sqrt(crossed_spread(table).image_variance), rel=0.05)
    assert means.mean() == pytest.approx(table.mean, abs=4 * means.std() / np.sqrt(4000))


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(6).exponential(size=300)
    table = crossed_table(values[None], np.arange(300))
    low, high = crossed_interval(table, confidence=0.95, samples=4000, seed=1)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.05 * width)
    assert high == pytest.approx(expected.high, abs=0.05 * width)


@pytest.mark.parametrize(
    ("seeds", "seed_sd"),
    [(1, 0.0), (2, 0.0), (2, 0.1), (2, 0.5), (3, 0.0), (3, 0.1), (3, 0.5)],
)
def test_interval_covers_the_truth(seeds: int, seed_sd: float) -> None:
    rng = np.random.default_rng(100 + seeds)
    repeats, covered = 800, 0
    for repeat in range(repeats):
        table = simulate(rng, seeds=seeds, images=80, effect=1.0, seed_sd=seed_sd, image_sd=0.3)
        low, high = crossed_interval(table, confidence=0.95, samples=300, seed=repeat)
        covered += low <= 1.0 <= high
    assert covered / repeats >= binomial_bounds(repeats, 0.95)[0]


def test_plain_pigeonhole_interval_fails_with_two_seeds_and_ours_does_not() -> None:
    """The reason why the interval isn't the plain percentile one."""
    rng = np.random.default_rng(9)
    repeats, plain, ours = 300, 0, 0
    for repeat in range(repeats):
        table = simulate(rng, seeds=2, images=60, seed_sd=0.5, image_sd=0.3)
        choice = {"confidence": 0.95, "samples": 300, "seed": repeat}
        low, high = pigeonhole_interval(table, **choice)
        plain += low <= 0 <= high
        low, high = crossed_interval(table, **choice)
        ours += low <= 0 <= high
    assert plain / repeats < 0.8
    assert ours / repeats >= binomial_bounds(repeats, 0.95)[0]


def test_interval_is_deterministic_and_depends_on_the_seed() -> None:
    table = simulate(np.random.default_rng(10), seeds=2, images=100)
    choice = {"confidence": 0.95, "samples": 500}
    assert crossed_interval(table, seed=3, **choice) == crossed_interval(table, seed=3, **choice)
    assert crossed_interval(table, seed=3, **choice) != crossed_interval(table, seed=4, **choice)


def test_exact_permutation_matches_scipy() -> None:
    values = np.array([3.0, -1.0, 2.5, 4.0, -0.5, 1.5, 2.0])
    table = crossed_table(values[None], np.arange(7))
    expected = stats.permutation_test(
        (values, np.zeros(7)),
        lambda x, y, axis: np.abs(np.mean(x - y, axis=axis)),
        permutation_type="samples",
        vectorized=True,
        alternative="greater",
        n_resamples=np.inf,
    ).pvalue
    assert permutation_p_value(table, samples=100, seed=0) == pytest.approx(expected)


def test_random_permutation_approaches_the_exact_value() -> None:
    values = np.random.default_rng(11).normal(0.5, 1, size=13)
    exact = permutation_p_value(crossed_table(values[None], np.arange(13)), samples=1, seed=0)
    # A tiny fourteenth image pushes it over the limit of enumeration and changes nothing.
    wider = np.append(values, 1e-9)
    drawn = permutation_p_value(crossed_table(wider[None], np.arange(14)), samples=40_000, seed=1)
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000))


def test_null_p_values_are_uniform() -> None:
    rng = np.random.default_rng(12)
    p_values = [
        permutation_p_value(simulate(rng, seeds=1, images=60), samples=400, seed=i)
        for i in range(400)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    low, high = binomial_bounds(400, 0.05)
    assert low <= np.mean(np.array(p_values) <= 0.05) <= high


def test_equal_answers_have_no_p_value_below_one() -> None:
    table = CrossedTable(sums=np.zeros((2, 30)), sizes=np.ones(30))
    assert permutation_p_value(table, samples=100, seed=0) == 1.0
    assert crossed_p_value(0.0, crossed_spread(table)) == 1.0
    assert half_width(crossed_spread(table), 0.95) == 0.0
    assert crossed_interval(table, confidence=0.95, samples=100, seed=0) == (0.0, 0.0)


def test_mcnemar_is_the_binomial_test_of_discordant_pairs() -> None:
    first = np.array([True] * 9 + [False] * 2 + [True] * 5)
    second = np.array([False] * 9 + [True] * 2 + [True] * 5)
    only_first, only_second, p_value = mcnemar(first, second)
    assert (only_first, only_second) == (9, 2)
    assert p_value == pytest.approx(2 * stats.binom.cdf(2, 11, 0.5))
    assert mcnemar(first, first) == (0, 0, 1.0)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("seed_sd", [0.0, 0.6])
@pytest.mark.parametrize("effects", [(0.0,) * 4, (3.0, 0.0, 0.0, 0.0)])
def test_family_of_benchmarks_keeps_its_level(effects: tuple[float, ...], seed_sd: float) -> None:
    """Whatever is true of the others, equal arms are told apart somewhere in 5 % of families."""
    rng = np.random.default_rng(19)
    repeats, wrong, found = 500, 0, 0
    for _ in range(repeats):
        tables = [simulate(rng, seeds=3, images=60, effect=e, seed_sd=seed_sd) for e in effects]
        adjusted = holm([crossed_p_value(t.mean, crossed_spread(t)) for t in tables])
        verdicts = [p < 0.05 for p in adjusted]
        wrong += any(v for v, effect in zip(verdicts, effects, strict=True) if effect == 0)
        found += any(v for v, effect in zip(verdicts, effects, strict=True) if effect != 0)
    assert wrong / repeats <= binomial_bounds(repeats, 0.05)[1]
    assert found / repeats > 0.5 or not any(effects)


def test_minimum_detectable_effect_is_found_at_the_stated_power() -> None:
    rng = np.random.default_rng(13)
    typical = np.mean(
        [crossed_spread(simulate(rng, seeds=1, images=100)).standard_error for _ in range(200)]
    )
    spread = crossed_spread(simulate(rng, seeds=1, images=100))
    effect, method = minimum_detectable_effect(spread, alpha=0.05, power=0.8)
    assert method == "standard error"
    assert effect / spread.standard_error == pytest.approx(
        stats.t.ppf(0.975, 99) + stats.t.ppf(0.8, 99)
    )
    true_effect = effect / spread.standard_error * typical
    found = 0
    for _ in range(400):
        table = simulate(rng, seeds=1, images=100, effect=true_effect)
        found += crossed_p_value(table.mean, crossed_spread(table)) < 0.05
    low, high = binomial_bounds(400, 0.8)
    assert low <= found / 400 <= high


def test_an_effect_inside_the_interval_is_never_called_detectable() -> None:
    rng = np.random.default_rng(17)
    for seed_sd in (0.0, 0.1, 1.0):
        for seeds in (2, 3, 5):
            spread = crossed_spread(simulate(rng, seeds=seeds, images=60, seed_sd=seed_sd))
            effect, _ = minimum_detectable_effect(spread, alpha=0.05, power=0.8)
            assert effect > half_width(spread, 0.95)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_without_image_noise_the_crossed_p_value_is_students_t(seeds: int) -> None:
    offsets = np.random.default_rng(seeds).normal(0.5, 1, size=seeds)
    table = CrossedTable(sums=np.repeat(offsets[:, None], 4000, axis=1), sizes=np.ones(4000))
    spread = crossed_spread(table)
    expected = stats.ttest_1samp(offsets, 0)
    assert crossed_p_value(table.mean, spread) == pytest.approx(expected.pvalue, rel=2e-3)
    interval = expected.confidence_interval(0.95)
    half = (interval.high - interval.low) / 2
    assert half_width(spread, 0.95) == pytest.approx(half, rel=2e-3)


def test_seeds_that_agree_exactly_leave_the_t_test_over_images() -> None:
    values = np.random.default_rng(21).normal(0.2, 1, size=40)
    table = crossed_table(np.stack([values, values, values]), np.arange(40))
    expected = stats.ttest_1samp(values, 0)
    assert crossed_p_value(table.mean, crossed_spread(table)) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(("seeds", "seed_sd"), [(2, 0.0), (2, 0.6), (3, 0.2), (5, 0.05)])
def test_interval_half_width_and_p_value_tell_the_same(seeds: int, seed_sd: float) -> None:
    table = simulate(np.random.default_rng(22), seeds=seeds, images=200, seed_sd=seed_sd)
    spread = crossed_spread(table)
    half = half_width(spread, 0.95)
    assert crossed_p_value(half, spread) == pytest.approx(0.05, rel=1e-4)
    low, high = crossed_interval(table, confidence=0.95, samples=40_000, seed=3)
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0, 10.0, 100.0])
def test_crossed_p_value_keeps_its_level_whatever_the_seeds_do(seeds: int, ratio: float) -> None:
    """Variance between seeds from none to a hundred times the noise of images.

    Student's t on the summed variances rejected up to 18 % here.
    """
    rng = np.random.default_rng(23)
    repeats, images = 1200, 50
    rejected = 0
    for _ in range(repeats):
        noise = rng.normal(size=(seeds, images))
        table = CrossedTable(
            sums=noise + np.sqrt(ratio / images) * rng.normal(size=(seeds, 1)),
            sizes=np.ones(images),
        )
        rejected += crossed_p_value(table.mean, crossed_spread(table)) < 0.05
    assert rejected / repeats <= binomial_bounds(repeats, 0.05)[1]


@pytest.mark.parametrize(("seeds", "seed_sd"), [(3, 0.0), (3, 1.0), (5, 0.3)])
def test_effect_solved_for_several_seeds_is_found_at_the_stated_power(
    seeds: int, seed_sd: float
) -> None:
    """The median of the predicted effects, tried on experiments of their own."""
    rng = np.random.default_rng(24)
    design = {"seeds": seeds, "images": 80, "seed_sd": seed_sd}
    predicted = [
        minimum_detectable_effect(crossed_spread(simulate(rng, **design)), alpha=0.05, power=0.8)[0]
        for _ in range(61)
    ]
    effect = float(np.median(predicted))
    found = 0
    for _ in range(300):
        table = simulate(rng, effect=effect, **design)
        found += crossed_p_value(table.mean, crossed_spread(table)) < 0.05
    assert 0.68 <= found / 300 <= 0.92


def test_without_variation_the_rule_of_three_bounds_the_effect() -> None:
    spread = crossed_spread(CrossedTable(sums=np.zeros((1, 100)), sizes=np.ones(100)))
    share, method = minimum_detectable_effect(spread, alpha=0.05, power=0.8)
    assert method == "rule of three"
    assert share == pytest.approx(3 / 100, rel=0.03)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_tiny_tables_give_wide_but_finite_answers(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(15).normal(size=shape)
    table = crossed_table(values, np.arange(shape[1]))
    low, high = crossed_interval(table, confidence=0.95, samples=200, seed=0)
    assert np.isfinite([low, high]).all()
    assert low <= table.mean <= high
    assert permutation_p_value(table, samples=100, seed=0) >= 0.5


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (2, 2), (3, 2), (5, 40)])
@pytest.mark.parametrize("alpha", [0.05, 0.0025, 1e-5])
def test_half_widths_and_effects_are_solved_for_at_any_level(
    shape: tuple[int, int], alpha: float
) -> None:
    values = np.random.default_rng(16).normal(size=shape)
    spread = crossed_spread(crossed_table(values, np.arange(shape[1])))
    half = half_width(spread, 1 - alpha)
    assert crossed_p_value(half, spread) == pytest.approx(alpha, rel=0.01)
    assert half < minimum_detectable_effect(spread, alpha=alpha, power=0.8)[0] < np.inf


def test_full_benchmark_takes_seconds() -> None:
    rng = np.random.default_rng(14)
    values = 100 * rng.choice([-1, 0, 0, 0, 1], size=(3, 5000)).astype(float)
    images = np.concatenate([np.arange(3166), rng.permutation(3166)[:1834]])
    table = crossed_table(values, images)
    started = time.process_time()
    crossed_interval(table, confidence=0.95, samples=2000, seed=0)
    permutation_p_value(table, samples=10_000, seed=0)
    assert time.process_time() - started < 10
