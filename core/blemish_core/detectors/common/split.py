# SPDX-License-Identifier: Apache-2.0
"""Which good images are learned from and which are held out to calibrate by."""

from math import ceil

from blemish_core.calibration import images_needed

_HELD_OUT = 0.2


def held_out_count(images: int, target_false_reject_rate: float) -> int:
    """How many of ``images`` to hold out: a fifth, or what the target needs, at most a third."""
    wanted = max(ceil(_HELD_OUT * images), images_needed(target_false_reject_rate))
    return min(wanted, images // 3)
