# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals: bootstrap over images, and exact binomial intervals for rates.

Percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. Good and
defective images are resampled separately, so that each draw has the numbers of the test set. Rates: Clopper
and Pearson, Biometrika 26, 1934, because a bootstrap of zero rejects has no variance.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blemish_core.distributions import beta_quantile
from blemish_core.evaluation.metrics import Interval

DRAWS = 1000
CONFIDENCE = 0.95
SEED = 0

_LEAST = 2
"""Images of each kind that a bootstrap needs, because a single image has no variance."""


@dataclass(frozen=True)
class Estimate:
    """A metric and its interval; each is None if the images do not allow it."""

    value: float | None
    interval: Interval | None = None


Estimates = dict[str, Estimate]
"""Estimates by field name of ``Metrics``."""


def enough(*counts: int) -> bool:
    """Return whether these numbers of images suffice for a bootstrap."""
    return min(counts) >= _LEAST


def draws(count: int, random: np.random.Generator, rows: int = DRAWS) -> NDArray[np.float32]:
    """Return how often each of ``count`` images occurs in each bootstrap draw, (rows, count)."""
    picks = random.integers(count, size=(rows, count), dtype=np.int32)
    picks += np.arange(rows, dtype=np.int32)[:, None] * count
    return np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float32)


def percentile_interval(values: NDArray[np.float64]) -> Interval:
    """Return the interval of the middle 95 % of a metric's draws."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(low=float(low), high=float(high))


def rate(hits: int, of: int) -> Estimate:
    """Estimate the share of ``hits`` with an exact binomial interval."""
    if not of:
        return Estimate(None)
    tail = (1 - CONFIDENCE) / 2
    return Estimate(
        hits / of,
        Interval(
            low=beta_quantile(tail, hits, of - hits + 1) if hits else 0.0,
            high=beta_quantile(1 - tail, hits + 1, of - hits) if hits < of else 1.0,
        ),
    )
