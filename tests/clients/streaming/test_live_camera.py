# SPDX-License-Identifier: Apache-2.0
import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.v1.image_pb2 import Image
from blemish_client.streaming import live_camera
from blemish_client.streaming.live_camera import live_frames
from blemish_client.streaming.video import SourceError

Picture = NDArray[np.uint8]


class FakeCamera:
    """A camera with one script for each connection: frames, then a failed read or one that hangs."""

    def __init__(self, *connections: int | str) -> None:
        self._connections = iter(connections)
        self.opened = 0
        self.released = threading.Semaphore(0)
        self.power = threading.Event()
        """Ends the reads that hang."""

    def open(self, location: str, timeout_s: float) -> "FakeCapture":
        self.opened += 1
        script = next(self._connections, 0)
        if isinstance(script, str):
            raise SourceError(script)
        return FakeCapture(self, script)


class FakeCapture:
    """One connection of a fake camera; a negative number of frames is followed by a read that hangs."""

    def __init__(self, camera: FakeCamera, frames: int) -> None:
        self._camera = camera
        self._left, self._hangs = abs(frames), frames < 0

    def read(self) -> tuple[bool, Picture | None]:
        if self._left:
            self._left -= 1
            return True, np.full((2, 3, 3), self._left, np.uint8)
        if self._hangs:
            self._camera.power.wait(30)
        return False, None

    def release(self) -> None:
        self._camera.released.release()


def frames_of(
    camera: FakeCamera, monkeypatch: pytest.MonkeyPatch, reports: list[str], give_up_after_s: float | None
) -> Iterator[Image]:
    monkeypatch.setattr(live_camera, "open_capture", camera.open)
    return live_frames("rtsp://c", give_up_after_s, reports.append, longest_read_s=0.3, first_pause_s=0.01)


def test_frames_are_raw_and_go_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[str] = []
    camera = FakeCamera(2, 0, 0, 3)
    images = list(itertools.islice(frames_of(camera, monkeypatch, reports, None), 5))
    assert [(image.raw.pixel_format, image.raw.data[0]) for image in images] == [
        ("BGR8", level) for level in (1, 0, 2, 1, 0)
    ]
    assert camera.opened == 4
    assert reports == [
        "camera unreachable, retrying: no frames arrive from rtsp://c",
        "rtsp://c is available again after 0 s",
    ]


def test_read_that_hangs_is_given_up_and_its_camera_released_later(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FakeCamera(-1, 1)
    images = frames_of(camera, monkeypatch, [], None)
    assert len(list(itertools.islice(images, 2))) == 2
    assert camera.opened == 2
    camera.power.set()
    assert camera.released.acquire(timeout=10)


def test_source_ends_after_the_given_time_without_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FakeCamera(1)
    images = frames_of(camera, monkeypatch, [], 0.2)
    next(images)
    with pytest.raises(SourceError, match=r"no frames have arrived from rtsp://c for \d+ s; .*--give-up"):
        next(images)
    assert camera.opened > 2


def test_camera_that_is_away_at_first_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FakeCamera(0, 0, 0, 1)
    assert next(frames_of(camera, monkeypatch, [], None)).raw.width == 3


def test_abandoned_source_releases_the_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = FakeCamera(100)
    images = frames_of(camera, monkeypatch, [], None)
    next(images)
    images.close()  # type: ignore[attr-defined]
    assert camera.released.acquire(timeout=10)


def test_missing_opencv_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="needs OpenCV"):
        next(frames_of(FakeCamera("reading needs OpenCV"), monkeypatch, [], None))
