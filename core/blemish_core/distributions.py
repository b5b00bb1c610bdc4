# SPDX-License-Identifier: Apache-2.0
"""Tails and quantiles of distributions, in place of SciPy's, which servers do not install.

``tests/core/test_distributions.py`` compares them with SciPy.
"""

from collections.abc import Sequence
from math import erfc, exp, fsum, lgamma, log, log1p, sqrt

import numpy as np

_PRECISION = 1e-15
_TINY = 1e-300
_MOST_STEPS = 10_000
_FEW = 8
"""Size of a sample up to which the rank test is exact, as in SciPy."""


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the probability that a Beta(a, b) variable is at most ``x``, from 0 to 1."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    # The continued fraction converges fast below about the mean.
    if x > (a + 1) / (a + b + 2):
        return 1 - _lower_tail(1 - x, b, a)
    return _lower_tail(x, a, b)


def beta_quantile(share: float, a: float, b: float) -> float:
    """Return the value that a Beta(a, b) variable does not exceed with probability ``share``."""
    low, high, x = 0.0, 1.0, a / (a + b)
    for _ in range(_MOST_STEPS):
        excess = beta_cdf(x, a, b) - share
        low, high = (low, x) if excess > 0 else (x, high)
        following = x - excess / max(exp(_log_density(x, a, b)), _TINY)  # Newton
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - x) <= _PRECISION * x:
            break
        x = following
    return x


def binomial_cdf(most: int, trials: int, chance: float) -> float:
    """Return the probability of at most ``most`` successes."""
    return 1.0 if most >= trials else beta_cdf(1 - chance, trials - most, most + 1)


def beta_binomial_tail(least: int, trials: int, a: float, b: float) -> float:
    """Return the probability of at least ``least`` successes at a Beta(a, b) distributed chance."""

    def logarithm(successes: int) -> float:
        failures = trials - successes
        ways = -log(trials + 1) - _log_beta(successes + 1, failures + 1)
        return ways + _log_beta(successes + a, failures + b) - _log_beta(a, b)

    return min(1.0, fsum(exp(logarithm(successes)) for successes in range(least, trials + 1)))


def rank_test(scores: Sequence[float], others: Sequence[float]) -> float:
    """Return the p-value of Mann and Whitney's test that ``scores`` tend to be higher than ``others``.

    It is exact if one sample is small and no scores are equal, else a normal approximation with corrections
    for ties and continuity.
    """
    first, second = len(scores), len(others)
    _, places, ties = np.unique(
        np.array([*scores, *others], float), return_inverse=True, return_counts=True
    )
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[places]
    higher = float(ranks[:first].sum()) - first * (first + 1) / 2
    if min(first, second) <= _FEW and ties.max() == 1:
        ways = _rank_sums(*sorted((first, second)))
        return sum(ways[round(higher) :]) / sum(ways)
    count = first + second
    spread = first * second / 12 * (count + 1 - float((ties**3 - ties).sum()) / (count * (count - 1)))
    if spread <= 0:  # all are equal
        return 1.0
    return erfc((higher - first * second / 2 - 0.5) / sqrt(2 * spread)) / 2


def _lower_tail(x: float, a: float, b: float) -> float:
    """Return the regularized incomplete beta function by its continued fraction (DLMF 8.17.22).

    Lentz's method: Press et al., Numerical Recipes, 3rd edition, section 6.4.
    """
    numerator, denominator = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    fraction = denominator
    for step in range(1, _MOST_STEPS):
        even = step * (b - step) * x / ((a + 2 * step - 1) * (a + 2 * step))
        odd = -(a + step) * (a + b + step) * x / ((a + 2 * step) * (a + 2 * step + 1))
        for term in (even, odd):
            denominator = 1 / _away_from_zero(1 + term * denominator)
            numerator = _away_from_zero(1 + term / numerator)
            fraction *= denominator * numerator
        if abs(denominator * numerator - 1) <= _PRECISION:
            break
    return exp(_log_density(x, a, b)) * x * (1 - x) * fraction / a


def _log_density(x: float, a: float, b: float) -> float:
    return (a - 1) * log(x) + (b - 1) * log1p(-x) - _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def _rank_sums(few: int, many: int) -> list[int]:
    """Return the number of orders of two samples by the statistic of ``rank_test``, (few * many + 1,).

    They are the coefficients of a Gaussian binomial, the product of (1 - q^(many + i)) / (1 - q^i).
    """
    ways = [1] + [0] * (few * many)
    for factor in range(1, few + 1):
        for power in range(len(ways) - 1, many + factor - 1, -1):
            ways[power] -= ways[power - many - factor]
        for power in range(factor, len(ways)):
            ways[power] += ways[power - factor]
    return ways
