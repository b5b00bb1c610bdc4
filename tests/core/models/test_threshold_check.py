# SPDX-License-Identifier: Apache-2.0
import pytest

from blemish_core.calibration import Calibration
from blemish_core.evaluation.stored_scores import StoredScores
from blemish_core.models.threshold_check import concern

HELD_OUT = Calibration.of([6.0, 7.0, 8.0, 9.0], [6.0, 7.0, 8.0, 9.0], 0.25)
TESTED = StoredScores({"good": (6.5, 9.5), "crack": (12.0, 15.0)})


@pytest.mark.parametrize("scores", [None, TESTED, StoredScores({"good": (6.5,)})])
@pytest.mark.parametrize(
    ("threshold", "reason"),
    [
        (-5.0, "rejects all 4 held-out good images"),
        (0.0, "rejects all 4 held-out"),
        (5.9, "rejects all 4 held-out"),
        (6.5, "rejects 3 of 4 held-out"),
        (7.0, ""),
        (9.0, ""),
        (14.0, ""),
    ],
)
def test_threshold_that_rejects_most_good_images_is_a_concern(
    scores: StoredScores | None, threshold: float, reason: str
) -> None:
    found = concern(HELD_OUT.at_threshold(threshold), scores)
    assert reason in found
    assert bool(reason) == bool(found)


@pytest.mark.parametrize("threshold", [15.0, 99.0, 1e9, 3e38])
def test_threshold_that_detects_no_defective_test_image_is_a_concern(threshold: float) -> None:
    fixed = HELD_OUT.at_threshold(threshold)
    assert concern(fixed, TESTED) == "it detects none of 2 defective test images"


@pytest.mark.parametrize("scores", [None, StoredScores({"good": (6.5,)})])
def test_threshold_far_above_all_good_images_is_a_concern_without_defective_ones(
    scores: StoredScores | None,
) -> None:
    assert concern(HELD_OUT.at_threshold(99.0), scores) == ""
    assert "far above the highest score of 4" in concern(HELD_OUT.at_threshold(1e9), scores)


@pytest.mark.parametrize("threshold", [-0.05, 0.1])
def test_negative_thresholds_of_detectors_with_negative_scores_are_accepted(threshold: float) -> None:
    calibration = Calibration.of([-0.3, -0.2, -0.1], [-0.3, -0.2, -0.1], 0.25)
    assert concern(calibration.at_threshold(threshold), None) == ""
    assert "rejects all 3" in concern(calibration.at_threshold(-5.0), None)


def test_conformal_threshold_of_a_detector_that_detects_nothing_is_a_concern() -> None:
    blind = StoredScores({"crack": (6.0, 9.0)})
    assert concern(HELD_OUT, blind) == "it detects none of 2 defective test images"
