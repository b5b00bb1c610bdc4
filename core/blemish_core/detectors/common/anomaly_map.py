# SPDX-License-Identifier: Apache-2.0
"""Anomaly maps from patch distances, equal to those of anomalib's ``AnomalyMapGenerator``.

Nearest-neighbour upscaling and Gaussian blur are linear and separable, so a map is A d A^T with one matrix
A (height x rows). Two small products replace a convolution with a 33 x 33 kernel.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from blemish_core.imaging.geometry import Size

_DEVIATION = 4  # px, anomalib's AnomalyMapGenerator


def _gaussian(deviation: int) -> tuple[float, ...]:
    """Return the one-dimensional kernel whose outer product is anomalib's kernel."""
    reach = 4 * deviation
    weights = [math.exp(-((step / deviation) ** 2) / 2) for step in range(-reach, reach + 1)]
    return tuple(weight / sum(weights) for weight in weights)


BLUR = _gaussian(_DEVIATION)


def anomaly_map(distances: Tensor, size: Size, kernel: tuple[float, ...]) -> Tensor:
    """Upscale distances (rows, columns) to a size and blur by ``kernel``, of odd length and sum 1.

    The upscaled map is mirrored at its edges. The kernel is shorter than twice the shorter side.
    """
    rows, columns = distances.shape
    down = _upscale_and_blur(rows, size[0], kernel, distances.device)
    across = _upscale_and_blur(columns, size[1], kernel, distances.device)
    return down @ distances @ across.T


@lru_cache(maxsize=16)
def _upscale_and_blur(cells: int, side: int, kernel: tuple[float, ...], device: torch.device) -> Tensor:
    """Return A (side, cells), which upscales and blurs one axis."""
    upscaled = functional.interpolate(torch.eye(cells, dtype=torch.float64)[None], size=side)  # rows as is
    reach = len(kernel) // 2
    mirrored = functional.pad(upscaled, (reach, reach), mode="reflect")  # (1, cells, side + 2 reach)
    weights = torch.tensor(kernel, dtype=torch.float64)[None, None].expand(cells, 1, -1)
    blurred = functional.conv1d(mirrored, weights, groups=cells)[0]
    return blurred.T.float().contiguous().to(device)
