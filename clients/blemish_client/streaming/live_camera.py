# SPDX-License-Identifier: Apache-2.0
"""Frames of a live camera, across failures of the camera and of its network."""

import queue
import threading
import time
from collections.abc import Callable, Iterator

from blemish.v1.image_pb2 import Image
from blemish_client.streaming.video import SourceError, open_capture, read_frame

_LONGEST_READ_S = 15.0
"""Time after which opening a camera or reading a frame counts as failed."""
_LONGEST_PAUSE_S = 10.0
_FIRST_PAUSE_S = 0.5


def live_frames(
    location: str,
    give_up_after_s: float | None,
    report: Callable[[str], None],
    *,
    away: Callable[[bool], None] = lambda _: None,
    longest_read_s: float = _LONGEST_READ_S,
    first_pause_s: float = _FIRST_PAUSE_S,
) -> Iterator[Image]:
    """Yield frames as raw images, and connect again whenever the camera fails or is silent.

    Args:
        location: URL, device or number of a device.
        give_up_after_s: time without a frame after which to give up, in seconds; None never gives up.
        report: called with a line when the camera fails and when it is available again.
        away: called with True when the camera fails, and with False when it is available again.
        longest_read_s: time after which a read counts as failed, in seconds.
        first_pause_s: pause before the first retry, in seconds. It doubles with each, up to ten seconds.

    Raises:
        SourceError: if OpenCV is not installed, or after ``give_up_after_s``.
    """
    latest_s, pause_s, failed = time.monotonic(), first_pause_s, False
    while True:
        for image in _connection(location, longest_read_s):
            if failed:
                report(f"{location} is available again after {time.monotonic() - latest_s:.0f} s")
                away(False)
            yield image
            latest_s, pause_s, failed = time.monotonic(), first_pause_s, False
        silent_s = time.monotonic() - latest_s
        if give_up_after_s is not None and silent_s + pause_s > give_up_after_s:
            raise SourceError(
                f"no frames have arrived from {location} for {silent_s:.0f} s; check the camera and its "
                "address, or raise --give-up-after"
            )
        if not failed:
            report(f"camera unreachable, retrying: no frames arrive from {location}")
            away(True)
        failed = True
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _connection(location: str, longest_read_s: float) -> Iterator[Image]:
    """Yield the frames of one connection, until it ends or is silent for too long."""
    reader = _Reader(location, longest_read_s)
    reader.start()
    try:
        while (image := reader.next()) is not None:
            yield image
    finally:
        reader.abandon()


class _Reader(threading.Thread):
    """Reads frames in a thread of its own, since a read of a camera without power may never return."""

    def __init__(self, location: str, longest_read_s: float) -> None:
        super().__init__(name=f"reading {location}", daemon=True)
        self._location = location
        self._longest_read_s = longest_read_s
        # One frame: reading is as fast as sending, as it would be without a thread.
        self._frames: queue.Queue[Image | Exception | None] = queue.Queue(1)
        self._abandoned = threading.Event()

    def next(self) -> Image | None:
        """Return the next frame, or None at the end or if there is none in time.

        Raises:
            SourceError: if OpenCV is not installed.
        """
        try:
            frame = self._frames.get(timeout=self._longest_read_s)
        except queue.Empty:
            return None
        if isinstance(frame, Exception):
            raise frame
        return frame

    def abandon(self) -> None:
        """Release the camera as soon as its present read returns."""
        self._abandoned.set()

    def run(self) -> None:
        try:
            capture = open_capture(self._location, self._longest_read_s)
        except SourceError as error:
            self._put(error)
            return
        try:
            while self._put(read_frame(capture)):
                pass
        finally:
            capture.release()

    def _put(self, frame: Image | Exception | None) -> bool:
        """Hand over a frame, or None for the end; return True if another one is wanted."""
        while not self._abandoned.is_set():
            try:
                self._frames.put(frame, timeout=0.1)
            except queue.Full:
                continue
            return isinstance(frame, Image)
        return False
