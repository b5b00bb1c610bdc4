# SPDX-License-Identifier: Apache-2.0
"""Whitening for PatchCore: features in which distance is what tells a defect.

Plain distances are ruled by the few directions in which good patches vary most, light and grain. Whitened,
all directions count alike, those too in which nothing but noise is ever seen. So those in which synthetic
anomalies take patches count more, and those in which light, focus and noise do count less, as if good
patches varied that much more: a camera that ages is not to look like a defect.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from blemish_core.detectors.common.embedding import whitening_of

# Of the mean variance, added to each of the features'. Means of image AUROC and of good or defective P@5 on
# three draws of tile, leather, grid: 0.3 gives 0.956, 0.977, 0.962 and 0.918, 0.912, 0.905; 1 gives 0.962,
# 0.973, 0.973 and 0.910, 0.914, 0.912; 0.5 gives 0.962, 0.981, 0.968 and 0.920, 0.917, 0.917.
_SHRINKAGE = 0.5
# The exponent of how often altered spots take patches in a direction, and what is added to that, 1 being
# the average: a few hundred patches leave directions out. Means of image AUROC, good or defective P@5 and
# the same defect P@5 on those draws, two splits of each and nothing harmless known: 0 gives 0.978, 0.931,
# 0.721; 0.15 gives 0.984, 0.939, 0.735; 0.2 gives 0.984, 0.942, 0.735, and less on tile.
_EMPHASIS = 0.15
_UNSEEN = 0.01


@dataclass(frozen=True)
class Changes:
    """By what patches of one good image change; K and L may be 0."""

    anomalous: Tensor
    """(K, D), where a spot of it is altered."""
    harmless: Tensor
    """(L, D), in another light, focus and noise."""


@dataclass(frozen=True)
class Whitening:
    """A map after which good patches vary nearly alike all around their mean, which becomes zero.

    Farther where synthetic anomalies take patches, less far where they hardly ever do or what is harmless
    does.
    """

    matrix: Tensor
    """(D, D), symmetric."""
    shift: Tensor
    """(D,)."""
    levelling: Tensor
    """(D, D), from what this map gives to what is whitened by good patches and no more."""

    @classmethod
    def of(
        cls, features: Tensor, changes: Sequence[Changes], without: Sequence[int] | NDArray[np.int64] = ()
    ) -> "Whitening":
        """Fit it to features (N, P, D) and their changes, image by image, ``without`` those of some."""
        barred = {int(number) for number in without}
        others = [number for number in range(len(features)) if number not in barred]
        count, dimensions = len(others) * features.shape[1], features.shape[2]
        total = torch.zeros(dimensions, dtype=torch.float64)
        for number in others:
            total += features[number].double().sum(0)
        mean = total / count
        squares = torch.zeros(dimensions, dimensions, dtype=torch.float64)
        for number in others:
            away = features[number].double() - mean
            squares += away.T @ away
        good = squares / max(count - 1, 1)
        harmless = torch.cat([changes[number].harmless for number in others]).double()
        anomalous = torch.cat([changes[number].anomalous for number in others]).double()
        plain = whitening_of(good, _SHRINKAGE).double()
        varied = good + harmless.T @ harmless / max(len(harmless), 1)
        steady = whitening_of(varied, _SHRINKAGE).double()
        weights = _emphasis(anomalous @ steady)
        # Symmetric, as a whitening is, and distances are those after the one and then the other.
        matrix = _power(steady @ weights @ weights @ steady, 0.5)
        levelling = torch.linalg.solve(matrix, plain)
        # Laid out as they are read from a bundle: products of another layout round otherwise.
        return cls(matrix.float().contiguous(), -(mean @ matrix).float(), levelling.float().contiguous())

    def apply(self, features: Tensor, out: Tensor) -> None:
        """Map features (N, P, D) into ``out``, which may be themselves."""
        with torch.inference_mode():
            for number, patches in enumerate(features):
                out[number] = torch.addmm(self.shift, patches, self.matrix)


def _emphasis(changes: Tensor) -> Tensor:
    """Weights (D, D), symmetric, larger in directions that ``changes`` (K, D) have more often."""
    directions = functional.normalize(changes, dim=1)
    together = directions.T @ directions
    average = together.trace() / len(together)
    none = torch.eye(len(together), dtype=changes.dtype)
    if not average > 0:
        return none
    return _power(together / average + _UNSEEN * none, _EMPHASIS)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Raise a symmetric matrix (D, D) without negative eigenvalues to a power."""
    values, directions = torch.linalg.eigh(matrix)
    raised: Tensor = (directions * values.clamp_min(0) ** exponent) @ directions.T
    return raised
