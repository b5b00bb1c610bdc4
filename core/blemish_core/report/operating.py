# SPDX-License-Identifier: Apache-2.0
"""The operating points of a version: thresholds with their false rejects and detections."""

from collections.abc import Sequence
from dataclasses import dataclass

from blemish_core.calibration import Calibration
from blemish_core.evaluation.metrics import Interval
from blemish_core.evaluation.resampling import Estimate, rate

_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and its consequences."""

    threshold: float
    in_force: bool
    """True for the threshold of the report."""
    expected: float
    """False-reject rate that the held-out good images support, on average."""
    expected_interval: Interval
    """90 % confidence interval of it."""
    rejected: Estimate
    """Share of good test images above the threshold; without a value if there are none."""
    detected: Estimate
    """Share of defective test images above the threshold; without a value if there are none."""


def operating_points(
    calibration: Calibration, good: Sequence[float], defective: Sequence[float]
) -> list[OperatingPoint]:
    """Return the operating points that the held-out images support, the highest threshold first.

    Args:
        calibration: calibration of the report.
        good: scores of good test images.
        defective: scores of defective test images.
    """
    at_rates = [calibration.at_false_reject_rate(each) for each in _RATES]
    # The last of equal thresholds has the rate that the held-out images support.
    by_threshold = {each.threshold: each for each in at_rates}
    by_threshold[calibration.threshold] = calibration
    points = []
    for threshold, each in sorted(by_threshold.items(), reverse=True):
        low, high = each.false_reject_rate_interval
        points.append(
            OperatingPoint(
                threshold,
                threshold == calibration.threshold,
                each.warranted_false_reject_rate,
                Interval(low=low, high=high),
                rate(sum(score > threshold for score in good), len(good)),
                rate(sum(score > threshold for score in defective), len(defective)),
            )
        )
    return points
