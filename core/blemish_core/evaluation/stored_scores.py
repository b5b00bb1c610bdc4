# SPDX-License-Identifier: Apache-2.0
"""Scores of test images that an evaluation has stored, and the figures of another threshold from them."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from math import isfinite
from pathlib import Path

from blemish_core.evaluation.image_metrics import AT_THRESHOLD, threshold_metrics
from blemish_core.evaluation.metrics import GOOD, Metrics
from blemish_core.evaluation.resampling import Estimates, rate
from blemish_layouts.reading import read_regular

FILE = "scores.csv"
"""File of a report with the score of each test image."""
_MAX_BYTES = 256 << 20
_CACHED = 64


@dataclass(frozen=True)
class StoredScores:
    """The scores of the test images of one evaluation, by class."""

    by_class: Mapping[str, tuple[float, ...]]

    @property
    def good(self) -> tuple[float, ...]:
        return self.by_class.get(GOOD, ())

    @property
    def defective(self) -> tuple[float, ...]:
        return tuple(score for name, of in self.by_class.items() if name != GOOD for score in of)

    def rates(self, threshold: float) -> dict[str, Estimates]:
        """Estimate the false-reject rate and each class's detection rate at ``threshold``, by class."""
        return {
            name: {
                "false_reject_rate" if name == GOOD else "detection_rate": rate(
                    sum(score > threshold for score in scores), len(scores)
                )
            }
            for name, scores in self.by_class.items()
        }


def read_scores(report: Path) -> StoredScores | None:
    """Return the scores in the folder of a report; None if it has none, or they cannot be read.

    Reports of older versions have six digits of each score, and so may be off by one image.
    """
    file = report / FILE
    try:
        changed_ns = file.stat().st_mtime_ns
    except OSError:
        return None
    return _read(file, changed_ns)


@lru_cache(maxsize=_CACHED)
def _read(file: Path, changed_ns: int) -> StoredScores | None:
    """Return the scores in a file; ``changed_ns`` keeps the cache from returning older ones."""
    by_class: dict[str, list[float]] = {}
    try:
        text = read_regular(file, _MAX_BYTES).decode()
        for row in csv.DictReader(StringIO(text, newline="")):
            score = float(row["score"])
            if not isfinite(score):
                return None
            by_class.setdefault(row["class"], []).append(score)
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None
    return StoredScores({name: tuple(scores) for name, scores in sorted(by_class.items())})


def at_threshold(metrics: Metrics, scores: StoredScores, threshold: float) -> Metrics:
    """Return metrics whose figures at a threshold are those at ``threshold``; others stay as measured."""
    overall = threshold_metrics(scores.good, scores.defective, threshold)
    by_class = scores.rates(threshold)
    classes = {
        name: of.model_copy(update=_update(of.intervals, by_class[name])) if name in by_class else of
        for name, of in metrics.classes.items()
    }
    changes = _update(metrics.intervals, overall)
    return metrics.model_copy(update={**changes, "threshold": threshold, "classes": classes})


def _update(intervals: Mapping[str, object], estimates: Estimates) -> dict[str, object]:
    """Return the changed fields of a record with these confidence intervals."""
    kept = {name: interval for name, interval in intervals.items() if name not in AT_THRESHOLD}
    new = {name: each.interval for name, each in estimates.items() if each.interval is not None}
    return {name: each.value for name, each in estimates.items()} | {"intervals": kept | new}
