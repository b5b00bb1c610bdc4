# SPDX-License-Identifier: Apache-2.0
"""What turns a score into a verdict: a threshold and p-values from held-out good images, never from labels.

Conformal prediction: if n held-out good images and a new good one are exchangeable, the new score exceeds
the k-th smallest of theirs with probability at most 1 - k / (n + 1) (Vovk et al., Algorithmic Learning in
a Random World, 2005; Bates et al., arXiv:2104.08279, for outlier p-values).
"""

from bisect import bisect_left
from collections.abc import Sequence
from math import ceil, floor

from pydantic import BaseModel, ConfigDict, Field

from blemish_core.errors import InvalidRequest

DEFAULT_FALSE_REJECT_RATE = 0.05


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


class Calibration(BaseModel):
    """How good images score that the model had not learned from."""

    model_config = ConfigDict(frozen=True)

    target_false_reject_rate: float
    scores: tuple[float, ...] = Field(min_length=1)
    """Image scores, ascending."""
    map_maxima: tuple[float, ...] = Field(min_length=1)
    """Highest pixel of each anomaly map, ascending."""

    @classmethod
    def of(
        cls, scores: Sequence[float], map_maxima: Sequence[float], target_false_reject_rate: float
    ) -> "Calibration":
        """Calibrate from held-out good images, in any order."""
        return cls(
            target_false_reject_rate=target_false_reject_rate,
            scores=tuple(sorted(scores)),
            map_maxima=tuple(sorted(map_maxima)),
        )

    @property
    def threshold(self) -> float:
        """The score above which an image is anomalous."""
        return self._quantile(self.scores)

    @property
    def pixel_threshold(self) -> float:
        """The map value that good images exceed anywhere as seldom as ``threshold``."""
        return self._quantile(self.map_maxima)

    @property
    def warranted_false_reject_rate(self) -> float:
        """What n images can warrant: the target, or 1 / (n + 1) where that is more."""
        return max(self.target_false_reject_rate, 1 / (len(self.scores) + 1))

    def p_value(self, score: float) -> float:
        """The share of good images, this one counted among them, that score at least as high."""
        at_least = len(self.scores) - bisect_left(self.scores, score)
        return (at_least + 1) / (len(self.scores) + 1)

    def anomalous(self, score: float) -> bool:
        return score > self.threshold

    def _quantile(self, ascending: tuple[float, ...]) -> float:
        """The smallest value that a new one exceeds at most as often as warranted."""
        count = len(ascending)
        # At most this many of count + 1 exchangeable values may lie above.
        above = floor(round(self.warranted_false_reject_rate * (count + 1), 9))
        return ascending[count - max(above, 1)]
