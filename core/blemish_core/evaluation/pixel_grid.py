# SPDX-License-Identifier: Apache-2.0
"""The pixels on which anomaly maps are compared with masks: those of the frame, up to a limit.

At the size of a map, which may be far smaller than the frame, a small defect could vanish.
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

MAX_PIXELS = 1 << 20
"""Most pixels of one comparison, which bound its time and memory. Larger frames are shrunk."""

Shape = tuple[int, int]
"""Rows and columns."""


def comparison_shape(frame: Shape) -> Shape:
    """Return the shape on which maps of a ``frame`` are compared, of the frame's aspect ratio."""
    rows, columns = frame
    share = sqrt(min(1.0, MAX_PIXELS / (rows * columns)))
    return max(1, int(rows * share)), max(1, int(columns * share))


def scaled_map(anomaly_map: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    """Return a map of any shape scaled to ``shape``, bilinearly and with antialiasing."""
    if anomaly_map.shape == shape:
        return anomaly_map
    image = PillowImage.fromarray(np.ascontiguousarray(anomaly_map, np.float32))
    return np.asarray(image.resize(shape[::-1], PillowImage.Resampling.BILINEAR), np.float32)


def scaled_mask(mask: NDArray[np.bool_], shape: Shape) -> NDArray[np.bool_]:
    """Return a mask scaled to ``shape``; a pixel is set if any of its source pixels is."""
    if mask.shape == shape:
        return mask
    image = PillowImage.fromarray(mask.astype(np.float32))
    return np.asarray(image.resize(shape[::-1], PillowImage.Resampling.BOX)) > 0
