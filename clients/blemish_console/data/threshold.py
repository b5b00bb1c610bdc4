# SPDX-License-Identifier: Apache-2.0
"""The threshold of a version: the histogram of its scores, and what another threshold would do."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from math import isfinite
from typing import Self

from blemish.v1.model_pb2 import ClassMetrics, Metrics, ModelVersion, PreviewCalibrationResponse
from blemish_client.client import Client
from blemish_client.transport.work_requests import CalibrationOptions
from blemish_client.types.model_scores import ModelScores

GOOD = "good"
"""Class of the good test images."""
BINS = 48
MAX_FRAMES = 1000
"""Most frames with another verdict that the server returns."""
_MARGIN = 0.04
"""Space beyond the outermost scores, as a share of their range."""
_KEY_STEPS = {
    "ArrowLeft": -1,
    "ArrowDown": -1,
    "ArrowRight": 1,
    "ArrowUp": 1,
    "PageDown": -20,
    "PageUp": 20,
}
_STEPS = 400
"""Number of steps by arrow keys across the histogram."""


@dataclass(frozen=True)
class Axis:
    """The range of scores that a histogram shows."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float]) -> Self:
        """Return the axis that has all these values, with a margin."""
        found = list(values)
        low, high = min(found), max(found)
        margin = _MARGIN * (high - low) or max(abs(high), 1.0) / 2
        return cls(low - margin, high + margin)

    def at(self, share: float) -> float:
        """Return the score at a share of the axis, 0 to 1."""
        return self.low + min(max(share, 0.0), 1.0) * (self.high - self.low)

    def share(self, score: float) -> float:
        """Return the place of a score on the axis, 0 to 1."""
        return min(max((score - self.low) / (self.high - self.low), 0.0), 1.0)

    def after_key(self, score: float, key: str) -> float | None:
        """Return the score to which a key moves the threshold; None for keys that do not."""
        if key in ("Home", "End"):
            return self.low if key == "Home" else self.high
        if key not in _KEY_STEPS:
            return None
        return min(max(score + _KEY_STEPS[key] * (self.high - self.low) / _STEPS, self.low), self.high)


@dataclass(frozen=True)
class ScoreHistogram:
    """The numbers of images by score."""

    axis: Axis
    held_out: list[int]
    """Number of held-out good images in each bin."""
    good: list[int]
    """Number of good test images in each bin."""
    defective: list[int]
    """Number of defective test images in each bin."""

    @property
    def width(self) -> float:
        """Width of a bin, in units of the score."""
        return (self.axis.high - self.axis.low) / BINS


def histogram(scores: ModelScores, threshold: float) -> ScoreHistogram:
    """Return the histogram of a version's scores, with an axis that has the threshold, too."""
    good = scores.by_class.get(GOOD, [])
    defective = sorted(score for name, each in scores.by_class.items() if name != GOOD for score in each)
    axis = Axis.around([threshold, *scores.held_out, *good, *defective])
    return ScoreHistogram(
        axis, *(_counts(axis, ascending) for ascending in (scores.held_out, good, defective))
    )


def _counts(axis: Axis, ascending: list[float]) -> list[int]:
    edges = [bisect_left(ascending, axis.at(each / BINS)) for each in range(BINS)] + [len(ascending)]
    return [edges[each + 1] - edges[each] for each in range(BINS)]


@dataclass(frozen=True)
class Change:
    """A change of the threshold: a score, a target, or the threshold of the training."""

    threshold: float | None = None
    target: float | None = None
    """Target false-reject rate, 0 to 1."""

    @property
    def options(self) -> CalibrationOptions:
        """The change as the client takes it."""
        if self.threshold is not None:
            return {"threshold": self.threshold}
        if self.target is not None:
            return {"target_false_reject_rate": self.target}
        return {"trained": True}


def read_preview(
    client: Client, version: str, change: Change, days: int, max_frames: int
) -> PreviewCalibrationResponse:
    """Return what a change would do, with the kept frames of the last days that it concerns."""
    return client.preview_calibration(
        version, period=timedelta(days=days), max_frames=min(max_frames, MAX_FRAMES), **change.options
    )


def calibrate(
    client: Client,
    version: str,
    change: Change,
    *,
    author: str,
    comment: str,
    revision: int,
    acknowledge_extreme: bool,
) -> ModelVersion:
    """Change the threshold, if the calibration is still at a revision."""
    return client.update_calibration(
        version,
        author=author,
        comment=comment,
        expected_revision=revision,
        acknowledge_extreme=acknowledge_extreme,
        **change.options,
    )


@dataclass(frozen=True)
class Above:
    """The number of images above a threshold, before and after a change."""

    name: str
    """Class of the images."""
    before: int
    after: int
    of: int


def images_above(preview: PreviewCalibrationResponse) -> list[Above]:
    """Return the good test images above both thresholds, then the defective ones by class."""
    if not preview.HasField("metrics_before"):
        return []
    old, new = preview.metrics_before, preview.metrics_after
    found = []
    if old.good_images:
        found.append(_above(GOOD, old, new, "false_reject_rate", old.good_images))
    classes = {each.class_name: each for each in new.classes}
    found += [
        _above(each.class_name, each, classes[each.class_name], "detection_rate", each.images)
        for each in old.classes
    ]
    return found


def _above(
    name: str, old: Metrics | ClassMetrics, new: Metrics | ClassMetrics, rate: str, of: int
) -> Above:
    return Above(name, round(of * getattr(old, rate)), round(of * getattr(new, rate)), of)


def parse_number(text: object) -> float | None:
    """Return a finite number that a person typed; None if it is not one."""
    try:
        value = float(str(text).replace(",", "."))
    except ValueError:
        return None
    return value if isfinite(value) else None
