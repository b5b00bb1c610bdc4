# SPDX-License-Identifier: Apache-2.0
"""Altered good images, which stand for defective ones where a dataset has none.

A part of the image is pasted elsewhere, as in CutPaste (Li et al., CVPR 2021, arXiv:2104.04015). It is
turned by 90 degrees and blended in with soft edges. So alterations are neither obvious nor all alike.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDES = (0.06, 0.16)
"""Shortest and longest side of a part, relative to the shorter side of the image."""
_LEAST_SIDE = 8
"""Shortest side of a part, px."""
_WEIGHTS = (0.4, 1.0)
"""Lowest and highest opacity of a part."""
_SOFT_SHARE = 0.25
"""Width of the soft edge, relative to the side."""


def altered(image: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Return a copy of an image (H, W, 3) with a part pasted elsewhere; equal seeds give equal copies."""
    random = np.random.default_rng(seed)
    height, width = image.shape[:2]
    shorter = min(height, width)
    side = min(max(_LEAST_SIDE, round(float(random.uniform(*_SIDES)) * shorter)), shorter)
    top, bottom = random.integers(0, height - side + 1, 2)
    left, right = random.integers(0, width - side + 1, 2)
    part = np.rot90(image[bottom : bottom + side, right : right + side])
    place = np.s_[top : top + side, left : left + side]
    weight = float(random.uniform(*_WEIGHTS)) * _soft_square(side)[..., None]
    changed = image.copy()
    changed[place] = np.rint((1 - weight) * image[place] + weight * part)
    return changed


def _soft_square(side: int) -> NDArray[np.float32]:
    """Return weights (side, side), 1 in the middle and falling towards the edges."""
    soft = max(1, round(_SOFT_SHARE * side))
    inner = np.zeros((side, side), np.float32)
    inner[soft // 2 : side - soft // 2, soft // 2 : side - soft // 2] = 1
    return np.asarray(cv2.blur(inner, (soft, soft)), np.float32)
