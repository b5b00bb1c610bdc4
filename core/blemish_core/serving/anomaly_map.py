# SPDX-License-Identifier: Apache-2.0
"""Anomaly maps from patch distances, see ``detectors.common.anomaly_map``."""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from blemish_core.imaging.geometry import Size

Floats = NDArray[np.float32]

_DEVIATION = 4  # px, anomalib's AnomalyMapGenerator


def gaussian(deviation: int) -> tuple[float, ...]:
    """Return the one-dimensional kernel whose outer product is anomalib's kernel."""
    reach = 4 * deviation
    weights = [math.exp(-((step / deviation) ** 2) / 2) for step in range(-reach, reach + 1)]
    return tuple(weight / sum(weights) for weight in weights)


BLUR = gaussian(_DEVIATION)


def anomaly_map(distances: Floats, size: Size) -> Floats:
    """Upscale distances (rows, columns) to a size, and blur by ``BLUR``."""
    rows, columns = distances.shape
    down, across = _upscale_and_blur(rows, size[0]), _upscale_and_blur(columns, size[1])
    return np.asarray(down @ distances @ across.T, np.float32)


@lru_cache(maxsize=16)
def _upscale_and_blur(cells: int, side: int) -> Floats:
    """Return the matrix (side, cells) that upscales and blurs one axis."""
    step = np.float32(cells) / np.float32(side)  # single precision, like torch
    nearest = np.minimum((np.arange(side, dtype=np.float32) * step).astype(np.int64), cells - 1)
    upscaled = np.eye(cells)[:, nearest]
    reach = len(BLUR) // 2
    mirrored = np.pad(upscaled, ((0, 0), (reach, reach)), mode="reflect")
    blurred = np.lib.stride_tricks.sliding_window_view(mirrored, len(BLUR), axis=1) @ np.array(BLUR)
    return np.ascontiguousarray(blurred.T, np.float32)
