# SPDX-License-Identifier: Apache-2.0
"""Selection of example images: the worst errors and the clearest correct results."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

import numpy as np
from numpy.typing import NDArray

from blemish_core.datasets import DatasetImage
from blemish_core.evaluation.metrics import GOOD
from blemish_core.evaluation.pixel_grid import comparison_shape, scaled_mask

_EXAMPLES = 4
"""Number of images kept of each of the four kinds."""


class Correctness(StrEnum):
    """A result compared with the label of the image."""

    FALSE_REJECT = "false reject"
    MISS = "miss"
    RIGHT = "right"


@dataclass(frozen=True)
class Example:
    """A test image and the model's result."""

    image: DatasetImage
    score: float
    correctness: Correctness
    anomaly_map: NDArray[np.float32]
    """Anomaly map (rows, columns) of the whole image."""
    mask: NDArray[np.bool_] | None
    """Ground-truth mask of the whole image at the size of a comparison, or None if there is none."""


class Selection:
    """A bounded selection of example images from any number of images."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._clearest: dict[bool, _Highest] = {False: _Highest(), True: _Highest()}
        self._worst: dict[bool, _Highest] = {False: _Highest(), True: _Highest()}

    def add(
        self,
        image: DatasetImage,
        score: float,
        anomaly_map: NDArray[np.float32],
        mask: NDArray[np.bool_] | None,
    ) -> None:
        """Consider one image."""
        good = image.class_name == GOOD
        # Distance to the threshold, positive on the correct side.
        margin = self._threshold - score if good else score - self._threshold

        def example() -> Example:
            small = None if mask is None else scaled_mask(mask, comparison_shape(mask.shape))
            return Example(image, score, correctness(good, score, self._threshold), anomaly_map, small)

        self._clearest[good].add(margin, example)
        self._worst[good].add(-margin, example)

    def worst(self) -> tuple[Example, ...]:
        """Return the worst errors first, then the correct results closest to the threshold."""
        found = self._alternating(self._worst)
        return tuple(sorted(found, key=lambda each: each.correctness is Correctness.RIGHT))

    def best(self) -> tuple[Example, ...]:
        """Return the correct results farthest from the threshold, defective images first."""
        shown = {each.image.path for each in self.worst()}
        return tuple(
            each
            for good in (False, True)
            for each in self._clearest[good].descending()
            if each.correctness is Correctness.RIGHT and each.image.path not in shown
        )

    @staticmethod
    def _alternating(ranked: "dict[bool, _Highest]") -> list[Example]:
        """Return good and defective images alternately, so that neither kind fills the selection."""
        good, defective = ranked[True].descending(), ranked[False].descending()
        longest = max(len(good), len(defective))
        return [each[i] for i in range(longest) for each in (good, defective) if i < len(each)]


def correctness(good: bool, score: float, threshold: float) -> Correctness:
    """Compare the result for a score with the label of the image."""
    if (score > threshold) != good:
        return Correctness.RIGHT
    return Correctness.FALSE_REJECT if good else Correctness.MISS


class _Highest:
    """The examples with the highest keys."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Example]] = []
        self._ties = count(0, -1)  # on equal keys the earlier image is kept

    def add(self, key: float, example: Callable[[], Example]) -> None:
        if len(self._heap) < _EXAMPLES:
            heapq.heappush(self._heap, (key, next(self._ties), example()))
        elif key > self._heap[0][0]:
            heapq.heapreplace(self._heap, (key, next(self._ties), example()))

    def descending(self) -> list[Example]:
        return [example for _, _, example in sorted(self._heap, key=lambda each: each[:2], reverse=True)]
