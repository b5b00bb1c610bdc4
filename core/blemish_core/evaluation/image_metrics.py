# SPDX-License-Identifier: Apache-2.0
"""Image metrics with intervals: AUROC, F1, and false positive rate at 95 % true positive rate."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from blemish_core.evaluation.metrics import Interval, image_auroc
from blemish_core.evaluation.resampling import (
    DRAWS,
    SEED,
    Estimate,
    Estimates,
    draws,
    enough,
    percentile_interval,
    rate,
)

AT_THRESHOLD = frozenset({"false_reject_rate", "detection_rate", "f1"})
"""Names of the image metrics that depend on the threshold."""
_TRUE_POSITIVE_RATE = 0.95
_CELLS = 4_000_000
"""Largest size of an array of draws x images, in elements."""


def image_metrics(good: Sequence[float], defective: Sequence[float], threshold: float) -> Estimates:
    """Estimate each image metric; an image with a score above ``threshold`` is rejected."""
    auroc = image_auroc(good, defective)
    values = {} if auroc is None else {"image_auroc": auroc}
    return _estimates(good, defective, threshold, values)


def threshold_metrics(good: Sequence[float], defective: Sequence[float], threshold: float) -> Estimates:
    """Estimate the image metrics that depend on ``threshold``, as ``image_metrics`` does."""
    estimates = _estimates(good, defective, threshold, {})
    return {name: each for name, each in estimates.items() if name in AT_THRESHOLD}


def paired_differences(
    good: NDArray[np.float64], defective: NDArray[np.float64], thresholds: tuple[float, float]
) -> Estimates:
    """Estimate how much higher the metrics of a second detector are than those of a first one.

    The images of each bootstrap draw are the same for both. A draw cannot differ if all verdicts are equal:
    the interval of a rate then comes from the binomial bound of images with different verdicts.

    Args:
        good: scores (G, 2) of good images by both detectors.
        defective: scores (D, 2) of defective images.
        thresholds: thresholds of both.
    """
    random = np.random.default_rng(SEED)
    found: Estimates = {}
    for name, scores in (("false_reject_rate", good), ("detection_rate", defective)):
        if len(scores):
            found[name] = _rate_difference(scores > np.array(thresholds), random)
    if not len(good) or not len(defective):
        return found
    pooled = [_Pooled(good[:, each], defective[:, each], thresholds[each]) for each in (0, 1)]

    def difference(rows: int) -> NDArray[np.float64]:
        weights = draws(len(good), random, rows), draws(len(defective), random, rows)
        first, second = (each.metrics(*weights)["image_auroc"] for each in pooled)
        return second - first

    ones = np.ones((1, len(good))), np.ones((1, len(defective)))
    first, second = (each.metrics(*ones)["image_auroc"][0] for each in pooled)
    interval = None
    if enough(len(good), len(defective)):
        at_once = max(1, min(DRAWS, _CELLS // (len(good) + len(defective))))
        chunks = [difference(min(at_once, DRAWS - start)) for start in range(0, DRAWS, at_once)]
        interval = percentile_interval(np.concatenate(chunks))
    return {"image_auroc": Estimate(float(second - first), interval), **found}


def _rate_difference(above: NDArray[np.bool_], random: np.random.Generator) -> Estimate:
    """Estimate the difference of two rates from verdicts (N, 2) on the same images."""
    count = len(above)
    differences = above[:, 1].astype(np.float64) - above[:, 0]
    value = float(differences.mean())
    if not differences.any():
        bound = rate(0, count).interval
        return Estimate(value, bound and Interval(low=-bound.high, high=bound.high))
    if not enough(count):
        return Estimate(value)
    return Estimate(value, percentile_interval((draws(count, random) @ differences) / count))


def _estimates(
    good: Sequence[float], defective: Sequence[float], threshold: float, values: Mapping[str, float]
) -> Estimates:
    """Estimate metrics; ``values`` has those that are computed elsewhere and only need an interval."""
    rejected = rate(sum(score > threshold for score in good), len(good))
    detected = rate(sum(score > threshold for score in defective), len(defective))
    rates = {"false_reject_rate": rejected, "detection_rate": detected}
    if not good or not defective:
        return rates
    pooled = _Pooled(np.array(good), np.array(defective), threshold)
    found = pooled.metrics(np.ones((1, len(good))), np.ones((1, len(defective))))
    values = {name: float(value[0]) for name, value in found.items()} | dict(values)
    if not enough(len(good), len(defective)):
        return rates | {name: Estimate(value) for name, value in values.items()}
    drawn = _drawn(pooled, len(good), len(defective))
    return rates | {
        name: Estimate(value, percentile_interval(drawn[name])) for name, value in values.items()
    }


def _drawn(pooled: "_Pooled", good: int, defective: int) -> dict[str, NDArray[np.float64]]:
    """Return each metric for all bootstrap draws, (DRAWS,)."""
    random = np.random.default_rng(SEED)
    at_once = max(1, min(DRAWS, _CELLS // (good + defective)))
    chunks = []
    for start in range(0, DRAWS, at_once):
        rows = min(at_once, DRAWS - start)
        chunks.append(pooled.metrics(draws(good, random, rows), draws(defective, random, rows)))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


class _Pooled:
    """The scores of good and defective images in descending order, for metrics with varying weights."""

    def __init__(self, good: NDArray[np.float64], defective: NDArray[np.float64], threshold: float) -> None:
        scores = np.concatenate([good, defective])
        self._order = np.argsort(-scores, kind="stable")
        descending = scores[self._order]
        self._ends = np.flatnonzero(np.append(np.diff(descending) != 0, True))
        """Where each run of equal scores ends: a threshold chunks none of them."""
        self._above = int((descending > threshold).sum())
        self._good = len(good)

    def metrics(
        self, good: NDArray[np.floating], defective: NDArray[np.floating]
    ) -> dict[str, NDArray[np.float64]]:
        """Return metrics (R,) for the image weights ``good`` (R, G) and ``defective`` (R, D)."""
        none_good, none_defective = np.zeros_like(good), np.zeros_like(defective)
        false = np.cumsum(np.hstack([good, none_defective])[:, self._order], axis=1, dtype=np.float64)
        true = np.cumsum(np.hstack([none_good, defective])[:, self._order], axis=1, dtype=np.float64)
        positives = true[:, -1]  # (R,)
        false_here, true_here = _at(false, self._above), _at(true, self._above)
        false, true = false[:, self._ends], true[:, self._ends]  # (R, distinct scores)
        enough_true = true >= _TRUE_POSITIVE_RATE * positives[:, None] - 1e-9
        first = enough_true.argmax(axis=1)
        f1 = 2 * true / (true + false + positives[:, None])
        false_rates = np.pad(false / false[:, -1:], ((0, 0), (1, 0)))
        true_rates = np.pad(true / true[:, -1:], ((0, 0), (1, 0)))
        return {
            "image_auroc": np.trapezoid(true_rates, false_rates, axis=1),
            "fpr_at_95_tpr": false_rates[np.arange(len(first)), first + 1],
            "f1": 2 * true_here / (true_here + false_here + positives),
            "best_f1": f1.max(axis=1),
        }


def _at(cumulative: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the sums (R,) of the first ``count`` columns."""
    return cumulative[:, count - 1] if count else np.zeros(len(cumulative))
