"""The comparison's statistics against statsmodels, which is fetched for the test."""

import sys

import numpy as np
import pytest

from recap.compare.crossed import minimum_detectable_effect
from recap.compare.resampling import crossed_spread, crossed_table
from recap.compare.significance import holm, mcnemar

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module", autouse=True)
def statsmodels(fetch_wheels):
    folder = fetch_wheels("statsmodels==0.15.0", "patsy==1.0.3")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
    for name in [n for n in sys.modules if n.split(".")[0] in ("statsmodels", "patsy")]:
        del sys.modules[name]


def test_mcnemar():
    from statsmodels.stats.contingency_tables import mcnemar as theirs

    rng = np.random.default_rng(1)
    for _ in range(300):
        size = int(rng.integers(1, 400))
        first, second = rng.random(size) < rng.random(), rng.random(size) < rng.random()
        only_first, only_second, p_value = mcnemar(first, second)
        table = [[np.sum(first & second), only_first], [only_second, np.sum(~first & ~second)]]
        expected = 1.0 if only_first + only_second == 0 else theirs(table, exact=True).pvalue
        assert p_value == pytest.approx(expected, rel=1e-9)


def test_holm():
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(2)
    for _ in range(60):
        p_values = rng.random(int(rng.integers(1, 12))).round(2) ** 3
        assert holm(list(p_values)) == pytest.approx(multipletests(p_values, method="holm")[1])


def clustered_variance(values, groups):
    """Return the variance of a mean that OLS with clustered errors states."""
    from statsmodels.regression.linear_model import OLS

    fitted = OLS(values, np.ones_like(values)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    return float(fitted.cov_params()[0, 0])


@pytest.mark.parametrize(("images", "questions"), [(5, 9), (60, 90), (400, 900)])
def test_one_way_clustered_standard_error(images, questions):
    rng = np.random.default_rng(questions)
    numbers = np.concatenate([np.arange(images), rng.integers(0, images, questions - images)])
    values = rng.normal(size=images)[numbers] + rng.normal(size=questions)
    spread = crossed_spread(crossed_table(values[None], numbers))
    assert spread.image_variance == pytest.approx(clustered_variance(values, numbers))


def test_image_part_of_several_seeds_is_that_of_all_answers_clustered_by_image():
    rng = np.random.default_rng(4)
    numbers = rng.permutation(np.repeat(np.arange(50), 2))
    values = rng.normal(size=(3, 100)) + rng.normal(size=50)[numbers]
    spread = crossed_spread(crossed_table(values, numbers))
    expected = clustered_variance(values.ravel(), np.tile(numbers, 3))
    assert spread.image_variance == pytest.approx(expected)


def test_two_way_clustered_variance_of_many_seeds():
    """Image-by-seed noise is taken from residuals here, from cells there: equal in the limit."""
    from statsmodels.regression.linear_model import OLS
    from statsmodels.stats.sandwich_covariance import cov_cluster_2groups

    rng = np.random.default_rng(5)
    seeds, images = 60, 250
    values = 0.3 * rng.normal(size=(seeds, 1)) + 0.5 * rng.normal(size=images)
    values = values + rng.normal(size=(seeds, images))
    spread = crossed_spread(crossed_table(values, np.arange(images)))
    fitted = OLS(values.ravel(), np.ones(values.size)).fit()
    of_seed, of_image = np.divmod(np.arange(values.size), images)
    expected = float(cov_cluster_2groups(fitted, of_seed, of_image)[0][0, 0])
    assert spread.standard_error**2 == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("images", [30, 200, 3000])
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (0.01, 0.9)])
def test_detectable_effect_of_one_seed(images, alpha, power):
    from statsmodels.stats.power import TTestPower

    values = np.random.default_rng(images).normal(size=(1, images))
    spread = crossed_spread(crossed_table(values, np.arange(images)))
    effect, _ = minimum_detectable_effect(spread, alpha=alpha, power=power)
    expected = TTestPower().solve_power(nobs=images, alpha=alpha, power=power)
    assert effect / values.std(ddof=1) == pytest.approx(expected, rel=0.02)
