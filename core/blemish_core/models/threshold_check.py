# SPDX-License-Identifier: Apache-2.0
"""The check of a threshold against stored scores, before it judges a line."""

from blemish_core.calibration import Calibration
from blemish_core.evaluation.stored_scores import StoredScores

_FAR = 10.0
"""Distance above the highest known score from which on a threshold is absurd, in units of that score."""


def concern(calibration: Calibration, scores: StoredScores | None) -> str:
    """Return the reason for which a person has to confirm a threshold; empty if there is none.

    Args:
        calibration: held-out scores and the threshold.
        scores: scores of test images, if stored.
    """
    held_out, above = len(calibration.scores), calibration.held_out_above
    if above == held_out:
        return f"it rejects all {held_out} held-out good images"
    if 2 * above > held_out:
        return f"it rejects {above} of {held_out} held-out good images"
    if above:
        return ""
    defective = scores.defective if scores else ()
    if defective:
        if any(map(calibration.is_anomalous, defective)):
            return ""
        return f"it detects none of {len(defective)} defective test images"
    lowest, highest = calibration.scores[0], calibration.scores[-1]
    if calibration.threshold > highest + _FAR * max(abs(highest), highest - lowest):
        return f"it is far above the highest score of {held_out} held-out good images, {highest:.4g}"
    return ""
