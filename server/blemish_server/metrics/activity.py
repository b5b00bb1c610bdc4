# SPDX-License-Identifier: Apache-2.0
"""The open streams and the cameras at work, as GetServerInfo shows them.

Prometheus holds their history. This is the present state, for a person at the line.
"""

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from blemish_core.platform.names import ModelRef
from blemish_server.auth.authenticator import current_caller
from blemish_server.scoring.frame_queue import FrameQueue
from blemish_server.scoring.inspection import Inspection

WINDOW_S = 10
"""Time over which rates are measured, in whole seconds."""
# Bounds the memory of a client that invents a name for each frame.
_MAX_CAMERAS = 256
_MAX_CAMERAS_OF_STREAM = 16
_FORGET_AFTER_S = 600.0


class RateMeter:
    """The images per second within the last ``WINDOW_S``, counted by whole seconds."""

    def __init__(self) -> None:
        self._counts = [0] * WINDOW_S
        self._start_s = time.monotonic()
        self._second = int(self._start_s)

    def count(self) -> None:
        """Count an image."""
        self._advance()
        self._counts[self._second % WINDOW_S] += 1

    @property
    def per_second(self) -> float:
        """Images per second, since the start if that is more recent than the window."""
        self._advance()
        span_s = time.monotonic() - max(self._start_s, self._second - WINDOW_S + 1)
        return sum(self._counts) / max(span_s, 1.0)

    def _advance(self) -> None:
        """Set the counts of the seconds since the last call to 0."""
        now = int(time.monotonic())
        for second in range(max(self._second, now - WINDOW_S) + 1, now + 1):
            self._counts[second % WINDOW_S] = 0
        self._second = now


@dataclass(frozen=True)
class LastImage:
    """The inspection of the latest image."""

    version: ModelRef
    time: datetime
    is_anomalous: bool
    score: float

    @classmethod
    def of(cls, inspection: Inspection) -> "LastImage":
        """Return the parts of an inspection that are kept."""
        return cls(inspection.version, datetime.now(UTC), inspection.is_anomalous, inspection.score)


@dataclass(eq=False)
class OpenStream:
    """A stream that is open."""

    model: ModelRef
    """Model or version as the client named it."""
    queue: FrameQueue[Any, Any]
    caller: str
    """Name of the caller; empty without authentication."""
    start: datetime = field(default_factory=lambda: datetime.now(UTC))
    meter: RateMeter = field(default_factory=RateMeter)
    cameras: dict[str, None] = field(default_factory=dict)
    """Names of its cameras, in the order of their first frames."""
    refused: int = 0
    """Frames that were refused at their turn."""
    last: LastImage | None = None

    def observe(self, inspection: Inspection) -> None:
        """Note the inspection of a frame."""
        self.meter.count()
        self.last = LastImage.of(inspection)
        if inspection.capture.camera and len(self.cameras) < _MAX_CAMERAS_OF_STREAM:
            self.cameras[inspection.capture.camera] = None


@dataclass(eq=False)
class ActiveCamera:
    """A named camera whose images were inspected within the last ten minutes."""

    name: str
    caller: str
    """Caller that sent the latest image."""
    last: LastImage
    meter: RateMeter = field(default_factory=RateMeter)


class Activity:
    """The open streams, and the cameras whose images came in streams or calls."""

    def __init__(self) -> None:
        self._streams: list[OpenStream] = []
        self._cameras: OrderedDict[str, ActiveCamera] = OrderedDict()

    @property
    def streams(self) -> list[OpenStream]:
        """Open streams, the oldest first."""
        return list(self._streams)

    @property
    def cameras(self) -> list[ActiveCamera]:
        """Cameras of the last ten minutes, by name."""
        now = datetime.now(UTC)
        recent = [
            camera
            for camera in self._cameras.values()
            if (now - camera.last.time).total_seconds() < _FORGET_AFTER_S
        ]
        return sorted(recent, key=lambda camera: camera.name)

    @contextmanager
    def track(self, model: ModelRef, queue: FrameQueue[Any, Any]) -> Iterator[OpenStream]:
        """Show a stream of the current caller while it is open."""
        stream = OpenStream(model, queue, current_caller.get().name)
        self._streams.append(stream)
        try:
            yield stream
        finally:
            self._streams.remove(stream)

    def observe(self, inspection: Inspection) -> None:
        """Note the inspection of an image, if its camera has a name."""
        name = inspection.capture.camera
        if not name:
            return
        last = LastImage.of(inspection)
        camera = self._cameras.setdefault(name, ActiveCamera(name, "", last))
        camera.caller, camera.last = current_caller.get().name, last
        camera.meter.count()
        self._cameras.move_to_end(name)
        if len(self._cameras) > _MAX_CAMERAS:
            self._cameras.popitem(last=False)
