# SPDX-License-Identifier: Apache-2.0
"""Anomaly maps from patch distances, as anomalib's ``AnomalyMapGenerator`` makes them, as two products.

Enlarging by nearest neighbour and blurring by a Gaussian are linear and separable, so a map is A d A^T
with one matrix A (side x rows): 2 million multiplications at 256 px, not 71 million for a 33 x 33 kernel.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

_DEVIATION = 4  # px, anomalib's AnomalyMapGenerator


def _gaussian(deviation: int) -> tuple[float, ...]:
    """The profile of anomalib's kernel, which is the product of two such."""
    reach = 4 * deviation
    weights = [math.exp(-((step / deviation) ** 2) / 2) for step in range(-reach, reach + 1)]
    return tuple(weight / sum(weights) for weight in weights)


BLUR = _gaussian(_DEVIATION)


def anomaly_map(distances: Tensor, side: int, kernel: tuple[float, ...]) -> Tensor:
    """Enlarge distances (rows, columns) to (side, side) and blur by ``kernel``, of odd length and sum 1.

    Beyond its edges the enlarged map is mirrored; the kernel reaches less than ``side``.
    """
    rows, columns = distances.shape
    down = _enlarge_and_blur(rows, side, kernel, distances.device)
    across = _enlarge_and_blur(columns, side, kernel, distances.device)
    return down @ distances @ across.T


@lru_cache(maxsize=16)
def _enlarge_and_blur(cells: int, side: int, kernel: tuple[float, ...], device: torch.device) -> Tensor:
    """(side, cells)."""
    enlarged = functional.interpolate(torch.eye(cells, dtype=torch.float64)[None], size=side)  # rows as is
    reach = len(kernel) // 2
    mirrored = functional.pad(enlarged, (reach, reach), mode="reflect")  # (1, cells, side + 2 reach)
    weights = torch.tensor(kernel, dtype=torch.float64)[None, None].expand(cells, 1, -1)
    blurred = functional.conv1d(mirrored, weights, groups=cells)[0]
    return blurred.T.float().contiguous().to(device)
