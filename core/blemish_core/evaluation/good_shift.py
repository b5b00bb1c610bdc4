# SPDX-License-Identifier: Apache-2.0
"""Comparison of good test images with the held-out images that calibrated the threshold.

Rejected good images are false alarms of the threshold only if they resemble the training images. If other
pieces, light or cameras made their scores higher, no threshold from the training images holds for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from blemish_core.calibration import Calibration
from blemish_core.detectors.base import ReadImage, silent
from blemish_core.detectors.common.copies import find_copies
from blemish_core.evaluation.higher_scores import is_higher


@dataclass(frozen=True)
class GoodShift:
    """Good test images that score higher than held-out ones."""

    images: int
    """Number of good test images of different pieces."""
    rejected: int
    """Number of them with scores above the threshold."""
    expected_rate: float
    """Share of good images that the calibration warrants to be rejected at most, on average."""

    def warning(self) -> str:
        """Return a sentence for reports and cards."""
        return (
            f"good test images score higher than held-out ones: {self.rejected} of {self.images} are "
            f"rejected, and {self.expected_rate:.1%} were expected; check test/good for defects, and add "
            "good images like them to train/good"
        )


def find_shift(
    calibration: Calibration, scores: Sequence[float], images: Sequence[ReadImage]
) -> GoodShift | None:
    """Return how much higher good test images score than held-out ones, or None if chance explains it.

    The images are read only if their scores are higher. Copies count once, because several images of one
    piece are less evidence than images of as many pieces.

    Args:
        calibration: calibration of the model.
        scores: scores of the good test images.
        images: readers of these images, in the same order.
    """
    if not is_higher(calibration, scores):
        return None
    further = {number for group in find_copies(images, silent) for number in group[1:]}
    kept = [score for number, score in enumerate(scores) if number not in further]
    if not is_higher(calibration, kept):
        return None
    return GoodShift(
        len(kept), sum(map(calibration.is_anomalous, kept)), calibration.warranted_false_reject_rate
    )
