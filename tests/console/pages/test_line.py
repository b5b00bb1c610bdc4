# SPDX-License-Identifier: Apache-2.0
from collections import deque

import pytest

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, DefectRegion, Region
from blemish.v1.inspection_pb2 import InspectionEvent
from blemish_console import theme
from blemish_console.data.line import MAX_P_VALUES, LineCamera
from blemish_console.pages.line import boxes, matching, meter_percent, spark_points, verdict_of


@pytest.mark.parametrize(
    ("score", "threshold", "percent"), [(0.5, 0.5, 50), (0.25, 0.5, 25), (9, 0.5, 100), (1, 0, 0)]
)
def test_threshold_is_in_the_middle_of_the_meter(score: float, threshold: float, percent: float) -> None:
    assert meter_percent(score, threshold) == percent


def test_newest_p_value_is_at_the_right_end_and_small_ones_are_low() -> None:
    assert spark_points([1.0, 0.001]) == "235.9,2.0 240.0,38.0"
    assert spark_points([]) == ""
    assert spark_points([0.0] * MAX_P_VALUES).startswith("0.0,38.0 ")


def test_boxes_are_relative_to_the_part_that_was_scored() -> None:
    event = InspectionEvent(
        regions=[DefectRegion(box=Region(left=30, top=40, width=5, height=6))],
        region=Region(left=10, top=20, width=100, height=100),
    )
    assert boxes(event) == [(20, 20, 5, 6)]


def test_silent_camera_shows_its_silence_in_place_of_its_last_verdict() -> None:
    last = InspectionEvent(verdict=VERDICT_ANOMALOUS)
    camera = LineCamera("left", last=last, seen_s=100.0, p_values=deque())
    assert verdict_of(camera, 101.0) == theme.ANOMALOUS
    assert verdict_of(camera, 290.0).word == "silent for 3 min"
    assert verdict_of(LineCamera("right"), 290.0) == theme.NO_VERDICT


def test_part_of_a_name_selects_cameras_in_order_of_their_names() -> None:
    names = ["Press 2", "press 1", "oven"]
    assert matching(names, "PRESS") == ["Press 2", "press 1"]
    assert matching(names, "") == ["Press 2", "oven", "press 1"]
    assert matching(names, "saw") == []
