# SPDX-License-Identifier: Apache-2.0
"""``blemish watch``: the verdicts of all cameras in lines."""

from datetime import UTC, datetime

import grpc
import pytest
from tests.support.cli import Run, json_lines
from tests.support.fake_server import CallError, FakeServer

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL, DefectRegion, Region
from blemish.v1.inspection_pb2 import (
    CONSENSUS_MAJORITY,
    CameraState,
    CameraStates,
    DefectClass,
    InspectionEvent,
    StreamEnding,
    WatchInspectionsResponse,
)

NIGHT = datetime(2026, 12, 2, 3, 4, 5, tzinfo=UTC)


def anomalous(camera: str = "press-1", sequence: int = 7) -> InspectionEvent:
    event = InspectionEvent(
        camera=camera,
        model_version="models/tile/versions/3",
        verdict=VERDICT_ANOMALOUS,
        score=12.5,
        threshold=4.25,
        p_value=0.01,
        sequence=sequence,
        item="items/4f0c2a",
        regions=[DefectRegion(box=Region(left=120, top=48, width=14, height=9))],
        defect_class=DefectClass(class_name="crack", share=0.75, neighbors=5, consensus=CONSENSUS_MAJORITY),
    )
    event.time.FromDatetime(NIGHT)
    return event


def normal() -> InspectionEvent:
    event = InspectionEvent(
        model_version="models/tile/versions/3", verdict=VERDICT_NORMAL, score=1, threshold=4.25, p_value=0.5
    )
    event.time.FromDatetime(NIGHT)
    return event


def states(*cameras: CameraState) -> WatchInspectionsResponse:
    return WatchInspectionsResponse(states=CameraStates(cameras=cameras))


def shown(event: InspectionEvent, lost: int = 0) -> WatchInspectionsResponse:
    return WatchInspectionsResponse(inspection=event, lost=lost)


def press(*, inspected: int = 0, dropped: int = 0, refused: int = 0) -> CameraState:
    return CameraState(camera="press-1", inspected=inspected, dropped=dropped, refused=refused)


@pytest.fixture(autouse=True)
def two_verdicts(fake: FakeServer) -> None:
    begin = press(inspected=100, dropped=12)
    begin.anomalous, begin.hour_inspected, begin.hour_anomalous = 4, 50, 2
    begin.images_per_second = 2.5
    begin.last.CopyFrom(anomalous())
    fake.inspection_watches = [
        [
            states(begin, CameraState(camera="[red]dark", refused=3)),
            shown(anomalous()),
            states(press(dropped=14, refused=1)),
            shown(normal(), lost=31),
        ],
        [],
    ]


def test_lines_have_the_words_of_a_stream(run: Run) -> None:
    done = run("watch", "--limit", 2)
    assert done.exit_code == 0
    first, second = (line for line in done.stdout.splitlines() if "threshold" in line)
    words = first.split()
    assert words[1:5] == ["press-1", "7", "anomalous", "score"]
    assert "score 12.500  threshold 4.250  p 0.010  tile/3  1 region: 14 x 9 px at (120, 48)" in first
    assert first.endswith("crack (75 % of 5)  items/4f0c2a")
    assert second.split()[1:6] == ["-", "normal", "score", "1.000", "threshold"]


def test_it_begins_with_the_cameras_and_reports_changes(run: Run) -> None:
    lines = run("watch", "--limit", 2).stdout.splitlines()
    (press_line,) = (line.split() for line in lines if "% anomalous" in line)
    assert press_line[:6] == ["press-1", "2.5", "100", "4", "12", "0"]
    assert "4.0 % anomalous" in " ".join(press_line)
    assert any(line.strip().startswith("[red]dark") for line in lines)
    assert "press-1  2 frames dropped" in lines
    assert "press-1  1 frame refused" in lines
    assert "31 verdicts lost, because they were read too slowly" in lines


def test_json_has_one_object_for_each_message(run: Run) -> None:
    begin, first, later, second = json_lines(run("watch", "--limit", 2, "--json"))
    assert begin["cameras"][0]["last"]["verdict"] == "anomalous"
    assert (first["camera"], first["sequence"], first["verdict"]) == ("press-1", 7, "anomalous")
    assert first["time"] == "2026-12-02T03:04:05Z"
    assert first["regions"][0]["box"]["width"] == 14
    assert later["cameras"][0]["dropped"] == 14
    assert (second["lost"], second["verdict"]) == (31, "normal")


def test_filters_are_sent(run: Run, fake: FakeServer) -> None:
    run("watch", "--limit", 1, "--camera", "a", "--camera", "b", "-m", "tile/3", "--verdict", "anomalous")
    (request,) = fake.requests["WatchInspections"]
    assert list(request.cameras) == ["a", "b"]
    assert list(request.models) == ["models/tile/versions/3"]
    assert list(request.verdicts) == [VERDICT_ANOMALOUS]
    assert not request.HasField("thumbnails")


def test_first_anomalous_image_ends_with_exit_code_1(run: Run) -> None:
    done = run("watch", "--fail-on-anomaly")
    assert done.exit_code == 1
    assert sum("threshold" in line for line in done.stdout.splitlines()) == 1


def test_outage_and_its_end_are_reported_once(run: Run, fake: FakeServer) -> None:
    away = CallError(grpc.StatusCode.UNAVAILABLE, "the server is away")
    ending = WatchInspectionsResponse(ending=StreamEnding(message="the server is stopping"))
    fake.inspection_watches = [
        [states(), shown(normal()), ending],
        [away],
        [away],
        [states(press(inspected=1)), shown(normal())],
        [],
    ]
    done = run("watch", "--limit", 2)
    assert done.exit_code == 0
    assert done.stderr.count("not watching: the server is away") == 1
    assert done.stderr.count("watching again") == 1
    assert "no camera was seen in the last 24 hours" in done.stderr
    assert done.stdout.count("normal") == 2


def test_revoked_token_ends_the_watch(run: Run, fake: FakeServer) -> None:
    fake.inspection_watches = [[states()]]
    done = run("watch")
    assert done.exit_code == 6
    assert "the token was revoked" in done.stderr
