# SPDX-License-Identifier: Apache-2.0
"""Calibration: thresholds and p-values of scores from held-out good images, without labels of defects.

The method is conformal prediction. Let n held-out good images and a new good one be exchangeable. Then the
new score exceeds the k-th smallest of theirs with probability at most 1 - k / (n + 1). See Vovk et al.,
Algorithmic Learning in a Random World, 2005, and for outlier p-values Bates et al., arXiv:2104.08279.

The probability is an average over samples of n images. For one sample it is itself random, with a Beta
distribution of parameters n + 1 - k and k. See Vovk, Conditional validity of inductive conformal
predictors, ACML 2012, section 3. ``Calibration.false_reject_rate_interval`` is a confidence interval of it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import ceil, floor, isfinite

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from blemish_core.distributions import beta_quantile
from blemish_core.localization.settings import RegionSettings
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest

DEFAULT_FALSE_REJECT_RATE = 0.05
INTERVAL_CONFIDENCE = 0.9
_LARGEST = float(np.finfo(np.float32).max)


def images_needed(false_reject_rate: float) -> int:
    """Return how many held-out good images are needed to guarantee ``false_reject_rate``."""
    # Rounded, because 1 / 0.05 = 20.000000000000004.
    return ceil(round(1 / false_reject_rate, 9)) - 1


def checked_false_reject_rate(rate: float) -> float:
    """Return ``rate`` if it is a valid target.

    Raises:
        InvalidRequest: if it is not above 0 and at most 0.5.
    """
    if not 0 < rate <= 0.5:
        raise InvalidRequest(
            f"target_false_reject_rate is {rate}, but must be above 0 and at most 0.5",
            field="target_false_reject_rate",
        )
    return rate


def checked_threshold(threshold: float) -> float:
    """Return ``threshold`` rounded to float32, the precision of scores.

    Raises:
        InvalidRequest: if it is not a finite float32.
    """
    # np.float32(threshold) would warn on overflow.
    if not abs(threshold) <= _LARGEST:
        raise InvalidRequest(
            f"threshold is {threshold}, but must be a finite number that a float32 can hold",
            field="threshold",
        )
    return float(np.float32(threshold))


class Calibration(BaseModel):
    """The scores of held-out good images, and the rule for the threshold."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    target_false_reject_rate: float = Field(gt=0, le=1)
    scores: tuple[float, ...] = Field(min_length=1)
    """Image scores, ascending."""
    map_maxima: tuple[float, ...] = Field(min_length=1)
    """Highest pixel of each anomaly map, ascending."""
    fixed_threshold: float | None = None
    """Threshold set by a user; it overrides the target rate."""
    regions: RegionSettings = RegionSettings()
    """Limits and scale of the regions of anomalous images."""

    @classmethod
    def of(
        cls, scores: Sequence[float], map_maxima: Sequence[float], target_false_reject_rate: float
    ) -> "Calibration":
        """Calibrate with the scores of held-out good images, in any order.

        Raises:
            FailedPrecondition: if a score is not finite.
        """
        if not all(map(isfinite, (*scores, *map_maxima))):
            raise FailedPrecondition(
                "some held-out good images have scores that are not finite, so there is no threshold; "
                "import valid weights for the backbone with `blemish weights import`"
            )
        return cls(
            target_false_reject_rate=target_false_reject_rate,
            scores=tuple(sorted(scores)),
            map_maxima=tuple(sorted(map_maxima)),
        )

    def at_false_reject_rate(self, target: float) -> "Calibration":
        """Return a calibration for another target rate, from the same held-out images.

        Raises:
            InvalidRequest: if ``target`` is not valid.
        """
        rate = checked_false_reject_rate(target)
        return self.model_copy(update={"target_false_reject_rate": rate, "fixed_threshold": None})

    def at_threshold(self, threshold: float) -> "Calibration":
        """Return a calibration with a fixed threshold.

        Raises:
            InvalidRequest: if ``threshold`` is not finite.
        """
        return self.model_copy(update={"fixed_threshold": checked_threshold(threshold)})

    def with_regions(self, regions: RegionSettings) -> "Calibration":
        """Return a calibration with other settings of regions.

        Raises:
            InvalidRequest: if one is out of range.
        """
        return self.model_copy(update={"regions": regions.checked()})

    @property
    def threshold(self) -> float:
        """Score above which an image is anomalous."""
        if self.fixed_threshold is not None:
            return self.fixed_threshold
        return self._exceeded_by(self._allowed - 1, self.scores)

    @property
    def pixel_threshold(self) -> float:
        """Map value that moves with ``threshold``, unless a person set another one.

        Held-out maps exceed it as often as held-out scores exceed the threshold. Between two scores it
        moves linearly. Beyond all of them it moves in proportion, at the ratio of the highest map value
        to the highest score.
        """
        if self.regions.pixel_threshold is not None:
            return self.regions.pixel_threshold
        return float(min(max(self._pixel_threshold_at(self.threshold), -_LARGEST), _LARGEST))

    @property
    def held_out_above(self) -> int:
        """Number of held-out images with scores above ``threshold``."""
        return len(self.scores) - bisect_right(self.scores, self.threshold)

    @property
    def warranted_false_reject_rate(self) -> float:
        """False-reject rate that n held-out images guarantee, on average over samples of them.

        For a target rate it is the target, or 1 / (n + 1) if that is higher. For a fixed threshold with k
        images above it, it is (k + 1) / (n + 1). The mean of the latter is at least the threshold's rate,
        provided that the threshold was chosen independently of these images.
        """
        if self.fixed_threshold is not None:
            return (self.held_out_above + 1) / (len(self.scores) + 1)
        return max(self.target_false_reject_rate, 1 / (len(self.scores) + 1))

    @property
    def false_reject_rate_interval(self) -> tuple[float, float]:
        """Confidence interval, at 90 %, of the false-reject rate of this threshold.

        Clopper and Pearson's interval (Biometrika 26, 1934), valid for fixed and for conformal thresholds.
        For a conformal one, let a of n + 1 scores be allowed above it. The lower bound is then the 5 %
        quantile of Beta(a - 1, n + 2 - a). The upper bound is the 95 % quantile of the rate's own
        distribution Beta(a, n + 1 - a). Ties among the held-out scores widen the interval.
        """
        count, above, tail = len(self.scores), self.held_out_above, (1 - INTERVAL_CONFIDENCE) / 2
        allowed = self._allowed
        lower = beta_quantile(tail, above, count + 1 - above) if above else 0.0
        upper = beta_quantile(1 - tail, allowed, count + 1 - allowed) if allowed <= count else 1.0
        return lower, upper

    def p_value(self, score: float) -> float:
        """Return the share of good images, this one included, with scores at least as high."""
        at_least = len(self.scores) - bisect_left(self.scores, score)
        return (at_least + 1) / (len(self.scores) + 1)

    def is_anomalous(self, score: float) -> bool:
        """Return True if ``score`` exceeds the threshold."""
        return score > self.threshold

    @property
    def _allowed(self) -> int:
        """Number of n + 1 exchangeable images that may lie above the threshold."""
        if self.fixed_threshold is not None:
            return self.held_out_above + 1
        return max(1, floor(round(self.warranted_false_reject_rate * (len(self.scores) + 1), 9)))

    def _pixel_threshold_at(self, threshold: float) -> float:
        """Return the map value that corresponds to a score."""
        scores, maxima = self.scores, self.map_maxima
        # A ratio needs positive values. EfficientAD's scores, which may be negative, are maxima of maps.
        is_positive = scores[-1] > 0 and maxima[-1] > 0
        per_score = maxima[-1] / scores[-1] if is_positive else 1.0
        at_most = bisect_right(scores, threshold)
        above = len(scores) - at_most
        if not above:
            return maxima[-1] + per_score * (threshold - scores[-1])
        if not at_most:
            return maxima[0] - per_score * (scores[0] - threshold)
        lower, upper = scores[at_most - 1], scores[at_most]
        low, high = self._exceeded_by(above, maxima), self._exceeded_by(above - 1, maxima)
        return low + (high - low) * (threshold - lower) / (upper - lower)

    @staticmethod
    def _exceeded_by(above: int, ascending: tuple[float, ...]) -> float:
        """Return the value that ``above`` of the values exceed, or the lowest if all should."""
        return ascending[max(len(ascending) - 1 - above, 0)]
