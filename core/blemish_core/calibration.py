# SPDX-License-Identifier: Apache-2.0
"""What turns a score into a verdict: a threshold and p-values from held-out good images, never from labels.

Conformal prediction: if n held-out good images and a new good one are exchangeable, the new score exceeds
the k-th smallest of theirs with probability at most 1 - k / (n + 1) (Vovk et al., Algorithmic Learning in
a Random World, 2005; Bates et al., arXiv:2104.08279, for outlier p-values).

That is an average over draws of the n images. For one draw the probability is itself random, Beta
distributed with parameters n + 1 - k and k (Vovk, Conditional validity of inductive conformal predictors,
ACML 2012, section 3): ``false_reject_rate_interval`` says where it may lie.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import ceil, floor, isfinite

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import betaincinv

from blemish_core.platform.errors import FailedPrecondition, InvalidRequest

DEFAULT_FALSE_REJECT_RATE = 0.05
INTERVAL_CONFIDENCE = 0.9


def images_needed(false_reject_rate: float) -> int:
    """How many held-out good images can warrant ``false_reject_rate``."""
    # Guard against 1 / 0.05 = 20.000000000000004 and its like.
    return ceil(round(1 / false_reject_rate, 9)) - 1


def checked_false_reject_rate(rate: float) -> float:
    """Return ``rate`` if it can be a target.

    Raises:
        InvalidRequest: unless it is above 0 and at most 0.5.
    """
    if not 0 < rate <= 0.5:
        raise InvalidRequest(
            f"target_false_reject_rate is {rate}, but must be above 0 and at most 0.5",
            field="target_false_reject_rate",
        )
    return rate


def checked_threshold(threshold: float) -> float:
    """Return ``threshold`` as the float32 nearest to it, as which scores are compared and told.

    Raises:
        InvalidRequest: unless that is finite.
    """
    # Not np.float32(threshold): it warns when it overflows.
    if not abs(threshold) <= float(np.finfo(np.float32).max):
        raise InvalidRequest(
            f"threshold is {threshold}, but must be a finite number that a float32 can hold",
            field="threshold",
        )
    return float(np.float32(threshold))


class Calibration(BaseModel):
    """How good images score that the model had not learned from, and where the line is drawn."""

    model_config = ConfigDict(frozen=True)

    target_false_reject_rate: float
    scores: tuple[float, ...] = Field(min_length=1)
    """Image scores, ascending."""
    map_maxima: tuple[float, ...] = Field(min_length=1)
    """Highest pixel of each anomaly map, ascending."""
    fixed_threshold: float | None = None
    """Drawn by a person; the target is not looked at then."""

    @classmethod
    def of(
        cls, scores: Sequence[float], map_maxima: Sequence[float], target_false_reject_rate: float
    ) -> "Calibration":
        """Calibrate from held-out good images, in any order.

        Raises:
            FailedPrecondition: if a score is no number, which no image is then above or below.
        """
        if not all(map(isfinite, (*scores, *map_maxima))):
            raise FailedPrecondition(
                "some held-out good images have scores that are no finite numbers, so that there is no "
                "threshold; bring sound weights for the backbone with `blemish weights import`"
            )
        return cls(
            target_false_reject_rate=target_false_reject_rate,
            scores=tuple(sorted(scores)),
            map_maxima=tuple(sorted(map_maxima)),
        )

    def at_false_reject_rate(self, target: float) -> "Calibration":
        """Draw the line anew from the same held-out images.

        Raises:
            InvalidRequest: unless ``target`` can be one.
        """
        rate = checked_false_reject_rate(target)
        return self.model_copy(update={"target_false_reject_rate": rate, "fixed_threshold": None})

    def at_threshold(self, threshold: float) -> "Calibration":
        """Draw the line at a score, whatever the held-out images say of it.

        Raises:
            InvalidRequest: unless ``threshold`` is finite.
        """
        return self.model_copy(update={"fixed_threshold": checked_threshold(threshold)})

    @property
    def threshold(self) -> float:
        """The score above which an image is anomalous."""
        if self.fixed_threshold is not None:
            return self.fixed_threshold
        return self._exceeded_by(self._allowed - 1, self.scores)

    @property
    def pixel_threshold(self) -> float:
        """The map value that held-out images exceed anywhere as seldom as their scores ``threshold``."""
        return self._exceeded_by(self._allowed - 1, self.map_maxima)

    @property
    def held_out_above(self) -> int:
        """How many held-out images have scores above ``threshold``."""
        return len(self.scores) - bisect_right(self.scores, self.threshold)

    @property
    def warranted_false_reject_rate(self) -> float:
        """What n held-out images can warrant, on average over draws of them.

        Conformal: the target, or 1 / (n + 1) where that is more. A fixed threshold with k of them above it:
        (k + 1) / (n + 1), whose mean is no less than the threshold's rate unless these images' scores had a
        part in choosing it.
        """
        if self.fixed_threshold is not None:
            return (self.held_out_above + 1) / (len(self.scores) + 1)
        return max(self.target_false_reject_rate, 1 / (len(self.scores) + 1))

    @property
    def false_reject_rate_interval(self) -> tuple[float, float]:
        """Where the false-reject rate of this very threshold lies, with 90 % confidence.

        Clopper and Pearson's interval (Biometrika 26, 1934), which is valid for a fixed threshold as for a
        conformal one, where it is the 5 % quantile of Beta(a - 1, n + 2 - a) and the 95 % quantile of the
        rate's own distribution Beta(a, n + 1 - a), if a of n + 1 may lie above. Equal scores among the
        held-out ones widen it.
        """
        count, above, tail = len(self.scores), self.held_out_above, (1 - INTERVAL_CONFIDENCE) / 2
        allowed = self._allowed
        lower = betaincinv(above, count + 1 - above, tail) if above else 0.0
        upper = betaincinv(allowed, count + 1 - allowed, 1 - tail) if allowed <= count else 1.0
        return float(lower), float(upper)

    def p_value(self, score: float) -> float:
        """The share of good images, this one counted among them, that score at least as high."""
        at_least = len(self.scores) - bisect_left(self.scores, score)
        return (at_least + 1) / (len(self.scores) + 1)

    def anomalous(self, score: float) -> bool:
        return score > self.threshold

    @property
    def _allowed(self) -> int:
        """How many of n + 1 exchangeable images may lie above the threshold."""
        if self.fixed_threshold is not None:
            return self.held_out_above + 1
        return max(1, floor(round(self.warranted_false_reject_rate * (len(self.scores) + 1), 9)))

    @staticmethod
    def _exceeded_by(above: int, ascending: tuple[float, ...]) -> float:
        """The value that ``above`` of the values exceed; the lowest where all should."""
        return ascending[max(len(ascending) - 1 - above, 0)]
