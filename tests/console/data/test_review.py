# SPDX-License-Identifier: Apache-2.0
from datetime import UTC, datetime

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL
from blemish.v1.search_pb2 import LABEL_CONFIRMED, LABEL_FALSE_ALARM, LABEL_NONE, Hit
from blemish_console.data import review
from blemish_console.data.review import ReviewQuery, Shown

NIGHT = datetime(2026, 11, 1, 22, tzinfo=UTC)


def test_queue_has_the_unlabelled_anomalous_frames_of_the_period_and_camera() -> None:
    assert ReviewQuery("tile", NIGHT, "line-3").condition == (
        "source = camera AND verdict = anomalous AND label = none AND "
        'time >= "2026-11-01T22:00:00+00:00" AND camera = "line-3"'
    )


def test_queue_ends_at_a_time() -> None:
    assert ReviewQuery("tile", shown=Shown.ALL, until=NIGHT).condition == (
        'source = camera AND time <= "2026-11-01T22:00:00+00:00"'
    )


def test_all_kept_frames_are_those_of_cameras() -> None:
    assert ReviewQuery("tile", shown=Shown.ALL).condition == "source = camera"


def test_quotes_in_the_name_of_a_camera_stay_in_it() -> None:
    assert ReviewQuery("tile", camera='a" OR "\\', shown=Shown.ALL).condition.endswith(
        'camera = "a\\" OR \\"\\\\"'
    )


def test_summary_counts_a_shift_by_camera_and_class() -> None:
    summary = review.summarize(
        [
            Hit(camera="right", verdict=VERDICT_ANOMALOUS, label=LABEL_CONFIRMED, label_class="crack"),
            Hit(camera="left", verdict=VERDICT_ANOMALOUS),
            Hit(camera="left", verdict=VERDICT_ANOMALOUS, label=LABEL_FALSE_ALARM),
            Hit(camera="left", verdict=VERDICT_NORMAL, label=LABEL_NONE),
        ]
    )
    assert list(summary.cameras) == ["left", "right"]
    assert (summary.all.frames, summary.all.anomalous, summary.all.open) == (4, 3, 1)
    assert summary.all.classes == {"crack": 1}
    assert summary.cameras["left"].labels == {LABEL_FALSE_ALARM: 1}
