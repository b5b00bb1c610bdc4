# SPDX-License-Identifier: Apache-2.0
"""Whitening for PatchCore: a linear map after which good patches vary nearly equally in all directions.

The few directions in which good patches vary most, brightness and grain, dominate plain distances.
Whitening makes all directions count, and shrinkage limits the weight of those that contain only noise.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from blemish_core.detectors.common.embedding import whitening_of

_SHRINKAGE = 5.0
"""Share of the mean variance that is added to each variance. Compare with bench_real."""
_BLOCK = 65_536  # patches in double precision at a time


@dataclass(frozen=True)
class Whitening:
    """A map after which good patches have mean zero and vary nearly equally in all directions."""

    matrix: Tensor
    """(D, D), symmetric."""
    shift: Tensor
    """(D,)."""

    @classmethod
    def fit(cls, patches: Tensor) -> Self:
        """Fit the map to patches (N, D)."""
        count, dimensions = patches.shape
        mean = patches.mean(0, dtype=torch.float64)
        squares = torch.zeros(dimensions, dimensions, dtype=torch.float64)
        for block in torch.split(patches, _BLOCK):
            away = block.double() - mean
            squares += away.T @ away
        matrix = whitening_of(squares / max(count - 1, 1), _SHRINKAGE)
        # Contiguous as when read from a bundle: products of another layout round differently.
        return cls(matrix.contiguous(), -(mean @ matrix.double()).float())

    def apply(self, patches: Tensor) -> Tensor:
        """Return patches (N, D) after the map."""
        return torch.addmm(self.shift, patches, self.matrix)
