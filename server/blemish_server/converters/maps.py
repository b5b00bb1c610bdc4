# SPDX-License-Identifier: Apache-2.0
"""The size of anomaly maps in a response. Large frames have maps that exceed the largest message."""

import math

import numpy as np
from numpy.typing import NDArray

_SHARE = 0.875
"""Share of the largest message for maps; a mask and regions need the rest."""
_VALUE_BYTES = 4
_MOST_BYTES = 40 << 20
"""Most bytes of maps. Clients of older versions receive at most 64 MiB."""


def map_pixels(max_message_bytes: int) -> int:
    """Return how many pixels all maps of a response may have, from the largest message."""
    return min(int(max_message_bytes * _SHARE), _MOST_BYTES) // _VALUE_BYTES


def shrunk_map(anomaly_map: NDArray[np.float32], max_pixels: int) -> NDArray[np.float32]:
    """Return a map (rows, columns) with at most ``max_pixels``.

    A larger map is divided into squares of equal size. Each pixel of the result is the highest of a square,
    so that no defect vanishes. Squares at the right and lower edge may be cut off by it.
    """
    rows, columns = anomaly_map.shape
    step = max(1, math.isqrt(anomaly_map.size // max_pixels))
    while math.ceil(rows / step) * math.ceil(columns / step) > max_pixels:
        step += 1
    if step == 1:
        return anomaly_map
    highest = np.maximum.reduceat(anomaly_map, range(0, rows, step), axis=0)
    return np.asarray(np.maximum.reduceat(highest, range(0, columns, step), axis=1), np.float32)
