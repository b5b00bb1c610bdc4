# SPDX-License-Identifier: Apache-2.0
"""The scores of two detectors on the same images, from the reports of two evaluations.

Exact test of two rates on the same images: McNemar, Psychometrika 12, 1947, with the binomial distribution
of the images that only one detector rejects.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blemish_core.distributions import binomial_cdf
from blemish_core.evaluation.image_metrics import image_metrics, paired_differences
from blemish_core.evaluation.metrics import GOOD
from blemish_core.evaluation.resampling import Estimate, rate
from blemish_core.evaluation.stored_scores import FILE
from blemish_layouts.reading import read_regular

_MAX_BYTES = 256 << 20
METRICS = ("image_auroc", "detection_rate", "false_reject_rate")


@dataclass(frozen=True)
class StoredRow:
    """A test image in the table of a report."""

    path: str
    class_name: str
    score: float
    original: str
    sha256: str
    """SHA-256 of the file in hex, empty in tables of older versions."""


@dataclass(frozen=True)
class PairedImage:
    """An image with the scores of both detectors."""

    path: str
    original: str
    class_name: str
    scores: tuple[float, float]


@dataclass(frozen=True)
class MetricDifference:
    """A metric of two detectors on the same images."""

    name: str
    first: Estimate
    second: Estimate
    difference: Estimate
    """Second minus first, with an interval from draws of the same images for both."""
    p_value: float | None = None
    """Two-sided p-value of McNemar's exact test; None if the metric is not a rate."""


@dataclass(frozen=True)
class ClassDifference:
    """The detection rates of two detectors on the images of one defect class."""

    class_name: str
    images: int
    detection: MetricDifference


@dataclass(frozen=True)
class PairedScores:
    """The images that two evaluations have in common."""

    images: tuple[PairedImage, ...]
    """Images, sorted by path."""
    left_out: int
    """Number of images that only one of the evaluations has."""
    thresholds: tuple[float, float]

    def differences(self) -> list[MetricDifference]:
        """Return the metrics that the images allow."""
        good, defective = self._scores(good=True), self._scores(good=False)
        found = paired_differences(good, defective, self.thresholds)
        each = [
            image_metrics(good[:, one].tolist(), defective[:, one].tolist(), self.thresholds[one])
            for one in (0, 1)
        ]
        tests = {"detection_rate": defective, "false_reject_rate": good}
        return [
            MetricDifference(
                name,
                each[0][name],
                each[1][name],
                found[name],
                self._p_value(tests[name]) if name in tests else None,
            )
            for name in METRICS
            if name in found
        ]

    def classes(self) -> list[ClassDifference]:
        """Return the detection rates of each defect class, sorted by name."""
        by_class: dict[str, list[tuple[float, float]]] = {}
        for image in self.images:
            if image.class_name != GOOD:
                by_class.setdefault(image.class_name, []).append(image.scores)
        return [self._class(name, np.array(scores)) for name, scores in sorted(by_class.items())]

    def _class(self, name: str, scores: NDArray[np.float64]) -> ClassDifference:
        above = (scores > np.array(self.thresholds)).sum(axis=0)
        first, second = (rate(int(count), len(scores)) for count in above)
        difference = paired_differences(np.empty((0, 2)), scores, self.thresholds)["detection_rate"]
        detection = MetricDifference("detection_rate", first, second, difference, self._p_value(scores))
        return ClassDifference(name, len(scores), detection)

    def _p_value(self, scores: NDArray[np.float64]) -> float:
        above = scores > np.array(self.thresholds)
        only = (above & ~above[:, ::-1]).sum(axis=0)
        return min(1.0, 2 * binomial_cdf(int(only.min()), int(only.sum()), 0.5))

    def only_above(self, detector: int, *, good: bool) -> list[PairedImage]:
        """Return the images that only one detector rejects: 0 for the first, 1 for the second."""
        other = 1 - detector
        return [
            image
            for image in self.images
            if (image.class_name == GOOD) is good
            and image.scores[detector] > self.thresholds[detector]
            and image.scores[other] <= self.thresholds[other]
        ]

    def count(self, *, good: bool) -> int:
        """Return the number of good or of defective images."""
        return sum((image.class_name == GOOD) is good for image in self.images)

    def _scores(self, *, good: bool) -> NDArray[np.float64]:
        rows = [image.scores for image in self.images if (image.class_name == GOOD) is good]
        return np.array(rows, np.float64).reshape(-1, 2)


def read_rows(report: Path) -> list[StoredRow] | None:
    """Return the test images in the folder of a report; None if it has none, or they cannot be read."""
    try:
        text = read_regular(report / FILE, _MAX_BYTES).decode()
        rows = [
            StoredRow(
                row["path"],
                row["class"],
                float(row["score"]),
                row.get("original_path") or "",
                row.get("sha256") or "",
            )
            for row in csv.DictReader(StringIO(text, newline=""))
        ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return None
    return rows if all(isfinite(row.score) for row in rows) else None


def pair(
    first: Sequence[StoredRow], second: Sequence[StoredRow], thresholds: tuple[float, float]
) -> PairedScores:
    """Pair the images of two evaluations: those with equal content and class, or paths in older tables."""
    by_content = all(row.sha256 for row in (*first, *second))

    def key(row: StoredRow) -> tuple[str, str]:
        return row.sha256 if by_content else row.path, row.class_name

    others = {key(row): row for row in second}
    paired = {
        key(row): PairedImage(row.path, row.original, row.class_name, (row.score, others[key(row)].score))
        for row in first
        if key(row) in others
    }
    images = tuple(sorted(paired.values(), key=lambda image: image.path))
    left_out = len({key(row) for row in first} ^ set(others))
    return PairedScores(images, left_out, thresholds)
