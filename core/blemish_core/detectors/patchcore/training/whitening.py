# SPDX-License-Identifier: Apache-2.0
"""Whitening for PatchCore: a linear map after which distance separates defects from harmless variation.

The few directions in which good patches vary most, brightness and grain, dominate plain distances.
Whitening makes all directions equal, even those that contain only noise. Weights correct that. Directions
in which synthetic anomalies move patches count more. Directions in which light, focus and noise move them
count less, as if good patches varied more there, so that an ageing camera does not look like a defect.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from blemish_core.detectors.common.embedding import whitening_of

# Share of the mean variance that is added to each variance. Compare with bench_embeddings.
_SHRINKAGE = 0.5
# Exponent of how often anomalies move patches in a direction, and the least such frequency relative to the
# average, since a few hundred patches miss some directions. Compare with bench_embeddings.
_EMPHASIS = 0.15
_MIN_FREQUENCY = 0.01


@dataclass(frozen=True)
class PatchChanges:
    """Differences between the patches of a good image and of its altered copies; K and L may be 0."""

    anomalous: Tensor
    """(K, D), where a synthetic anomaly was added."""
    harmless: Tensor
    """(L, D), in another light, focus and noise."""


@dataclass(frozen=True)
class Whitening:
    """A map after which good patches vary nearly equally in all directions around zero.

    They vary more in directions of synthetic anomalies, less in others and in those of harmless changes.
    """

    matrix: Tensor
    """(D, D), symmetric."""
    shift: Tensor
    """(D,)."""
    leveling: Tensor
    """(D, D), from features after this map to features whitened by good patches alone."""

    @classmethod
    def fit(
        cls,
        features: Tensor,
        changes: Sequence[PatchChanges],
        without: Sequence[int] | NDArray[np.int64] = (),
    ) -> Self:
        """Fit the map to features (N, P, D) and their changes, ``without`` those of some images."""
        excluded = {int(number) for number in without}
        others = [number for number in range(len(features)) if number not in excluded]
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
        robust = whitening_of(varied, _SHRINKAGE).double()
        weights = _emphasis(anomalous @ robust)
        # The symmetric matrix gives the same distances as the product of both.
        matrix = _power(robust @ weights @ weights @ robust, 0.5)
        leveling = torch.linalg.solve(matrix, plain)
        # Contiguous as when read from a bundle: products of another layout round differently.
        return cls(matrix.float().contiguous(), -(mean @ matrix).float(), leveling.float().contiguous())

    def apply(self, features: Tensor, out: Tensor) -> None:
        """Map features (N, P, D) into ``out``, which may be the same tensor."""
        with torch.inference_mode():
            for number, patches in enumerate(features):
                out[number] = torch.addmm(self.shift, patches, self.matrix)


def _emphasis(changes: Tensor) -> Tensor:
    """Return symmetric weights (D, D), larger in directions that are frequent in ``changes`` (K, D)."""
    directions = functional.normalize(changes, dim=1)
    together = directions.T @ directions
    average = together.trace() / len(together)
    identity = torch.eye(len(together), dtype=changes.dtype)
    if not average > 0:
        return identity
    return _power(together / average + _MIN_FREQUENCY * identity, _EMPHASIS)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Raise a symmetric matrix (D, D) without negative eigenvalues to a power."""
    values, directions = torch.linalg.eigh(matrix)
    raised: Tensor = (directions * values.clamp_min(0) ** exponent) @ directions.T
    return raised
