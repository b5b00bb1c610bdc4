# SPDX-License-Identifier: Apache-2.0
"""The sizes of the parts into which good images are split."""

from math import ceil

from blemish_core.calibration import images_needed

FOLDS = 5
"""Most folds of cross-calibration."""
_HELD_OUT_SHARE = 0.2


def held_out_count(pieces: int, target_false_reject_rate: float) -> int:
    """Return how many pieces to hold out: a fifth, or as many as the target needs.

    A third is the most, but one at least.
    """
    wanted = max(ceil(_HELD_OUT_SHARE * pieces), images_needed(target_false_reject_rate))
    return min(wanted, max(pieces // 3, 1))
