# SPDX-License-Identifier: Apache-2.0
"""How far figures can be trusted: bootstrap over images, exact binomial intervals for rates.

Percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; good and
defective images are resampled apart, so that each draw has as many of either as the test set. Rates:
Clopper and Pearson, Biometrika 26, 1934, since draws from no rejects at all are never anything else.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from blemish_core.evaluation.metrics import Interval

DRAWS = 1000
CONFIDENCE = 0.95
SEED = 0

_LEAST = 2
"""Of each kind of images; one alone says nothing of how others vary."""


@dataclass(frozen=True)
class Estimate:
    """A figure and where it lies, None where the images do not allow it."""

    value: float | None
    interval: Interval | None = None


Estimates = dict[str, Estimate]
"""By the names of fields of ``Metrics``."""


def enough(*counts: int) -> bool:
    """Tell whether so many images of each kind can be resampled."""
    return min(counts) >= _LEAST


def draws(count: int, random: np.random.Generator, rows: int = DRAWS) -> NDArray[np.float32]:
    """How often each of ``count`` images is in each draw of as many, (rows, count)."""
    picks = random.integers(count, size=(rows, count), dtype=np.int32)
    picks += np.arange(rows, dtype=np.int32)[:, None] * count
    return np.bincount(picks.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float32)


def percentile_interval(values: NDArray[np.float64]) -> Interval:
    """Where the middle 95 % of a figure's draws lie."""
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(low=float(low), high=float(high))


def rate(hits: int, of: int) -> Estimate:
    """Estimate the share of ``hits``, without a bootstrap."""
    if not of:
        return Estimate(None)
    tail = (1 - CONFIDENCE) / 2
    return Estimate(
        hits / of,
        Interval(
            low=float(betaincinv(hits, of - hits + 1, tail)) if hits else 0.0,
            high=float(betaincinv(hits + 1, of - hits, 1 - tail)) if hits < of else 1.0,
        ),
    )
