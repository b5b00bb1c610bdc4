# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy import special, stats

from blemish_core.distributions import (
    beta_binomial_tail,
    beta_cdf,
    beta_quantile,
    binomial_cdf,
    rank_test,
)

PARAMETERS = [(1, 1), (1, 19), (3, 17), (1, 4000), (250, 12), (5000, 5000), (40_000, 60_001), (2, 1)]


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
def test_beta_distribution_equals_that_of_scipy(a: int, b: int) -> None:
    for x in (1e-9, 0.001, a / (a + b), 0.3, 0.5, 0.9, 0.999):
        assert beta_cdf(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-300)
    for share in (1e-6, 0.025, 0.05, 0.5, 0.95, 0.975):
        assert beta_quantile(share, a, b) == pytest.approx(special.betaincinv(a, b, share), rel=1e-10)


def test_beta_distribution_ends_at_zero_and_one() -> None:
    assert (beta_cdf(0.0, 2, 3), beta_cdf(1.0, 2, 3)) == (0.0, 1.0)


def test_binomial_distribution_equals_that_of_scipy() -> None:
    for most, trials in ((0, 0), (0, 1), (1, 1), (0, 30), (3, 12), (40, 100), (4_900, 10_000)):
        expected = special.bdtr(most, trials, 0.5)
        assert binomial_cdf(most, trials, 0.5) == pytest.approx(expected, rel=1e-9)


def test_beta_binomial_tail_equals_that_of_scipy() -> None:
    cases = [(1, 1, 1, 1), (3, 20, 1, 40), (12, 200, 5, 95), (0, 7, 2, 3), (900, 2000, 3, 5)]
    for least, trials, a, b in (*cases, (520, 10_000, 500, 9_500)):
        expected = stats.betabinom.sf(least - 1, trials, a, b)
        assert beta_binomial_tail(least, trials, a, b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("digits", [1, 8])
@pytest.mark.parametrize(
    ("first", "second"), [(1, 1), (1, 30), (4, 60), (8, 8), (8, 300), (9, 9), (60, 200), (200, 12)]
)
def test_rank_test_equals_that_of_scipy(first: int, second: int, digits: int) -> None:
    random = np.random.default_rng(first * second)
    for shift in (-1.0, 0.0, 0.5, 3.0):
        scores = random.normal(shift, size=first).round(digits)
        others = random.normal(size=second).round(digits)
        expected = stats.mannwhitneyu(scores, others, alternative="greater").pvalue
        assert rank_test(scores.tolist(), others.tolist()) == pytest.approx(expected, rel=1e-9)


def test_equal_scores_are_no_evidence_of_higher_ones() -> None:
    assert rank_test([1.0] * 20, [1.0] * 30) == 1.0
