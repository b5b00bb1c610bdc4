# SPDX-License-Identifier: Apache-2.0
"""The split of good images into training and held-out images."""

from math import ceil

from blemish_core.calibration import images_needed

_HELD_OUT_SHARE = 0.2


def held_out_count(images: int, target_false_reject_rate: float) -> int:
    """Return how many images to hold out: a fifth or as many as the target needs, at most a third."""
    wanted = max(ceil(_HELD_OUT_SHARE * images), images_needed(target_false_reject_rate))
    return min(wanted, images // 3)
