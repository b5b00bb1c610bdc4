# SPDX-License-Identifier: Apache-2.0
import pytest

from blemish.v1.model_pb2 import ClassMetrics, Metrics, PreviewCalibrationResponse
from blemish_client.types.model_scores import ModelScores
from blemish_console.data import threshold
from blemish_console.data.threshold import Above, Axis, Change

SCORES = ModelScores([1.0, 2.0, 3.0], {"good": [1.0, 8.0], "crack": [9.0, 10.0], "oil": [2.0]})


def test_every_score_is_in_one_bin_of_its_kind() -> None:
    found = threshold.histogram(SCORES, 4.0)
    assert [sum(found.held_out), sum(found.good), sum(found.defective)] == [3, 2, 3]
    assert len(found.good) == threshold.BINS
    assert found.axis.low < 1.0
    assert found.axis.high > 10.0


def test_histogram_of_equal_scores_has_a_width() -> None:
    found = threshold.histogram(ModelScores([5.0, 5.0]), 5.0)
    assert sum(found.held_out) == 2
    assert found.width > 0
    assert found.axis.share(5.0) == pytest.approx(0.5)


def test_axis_has_the_threshold_also_beyond_all_scores() -> None:
    assert threshold.histogram(SCORES, 40.0).axis.high > 40.0


@pytest.mark.parametrize(
    ("key", "moved"),
    [
        ("ArrowRight", 5.025),
        ("ArrowLeft", 4.975),
        ("PageUp", 5.5),
        ("Home", 0.0),
        ("End", 10.0),
        ("Enter", None),
    ],
)
def test_keys_move_the_threshold(key: str, moved: float | None) -> None:
    found = Axis(0.0, 10.0).after_key(5.0, key)
    assert found == (moved if moved is None else pytest.approx(moved))


def test_line_stays_on_the_axis() -> None:
    axis = Axis(0.0, 10.0)
    assert axis.after_key(10.0, "PageUp") == 10.0
    assert axis.at(1.5) == 10.0
    assert axis.share(-3.0) == 0.0


def test_change_is_a_score_a_target_or_the_training() -> None:
    assert Change(threshold=0.0).options == {"threshold": 0.0}
    assert Change(target=0.01).options == {"target_false_reject_rate": 0.01}
    assert Change().options == {"trained": True}


def test_counts_of_test_images_follow_their_rates() -> None:
    preview = PreviewCalibrationResponse(
        metrics_before=Metrics(
            good_images=3,
            false_reject_rate=1 / 3,
            classes=[ClassMetrics(class_name="crack", images=7, detection_rate=6 / 7)],
        ),
        metrics_after=Metrics(
            good_images=3,
            false_reject_rate=0.0,
            classes=[ClassMetrics(class_name="crack", images=7, detection_rate=1 / 7)],
        ),
    )
    assert threshold.images_above(preview) == [Above("good", 1, 0, 3), Above("crack", 6, 1, 7)]
    assert threshold.images_above(PreviewCalibrationResponse()) == []


@pytest.mark.parametrize(
    ("text", "value"), [("12.5", 12.5), ("12,5", 12.5), ("", None), ("inf", None), ("a lot", None)]
)
def test_number_is_read_as_it_is_typed(text: str, value: float | None) -> None:
    assert threshold.parse_number(text) == value
