# SPDX-License-Identifier: Apache-2.0
"""The open streams and the cameras at work, as GetServerInfo and WatchInspections show them.

Prometheus holds their history. This is the present state, for a person at the line.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from blemish_core.platform.names import ModelRef
from blemish_server.auth.authenticator import current_caller
from blemish_server.scoring.frame_queue import FrameQueue
from blemish_server.scoring.inspection import Inspection
from blemish_server.scoring.inspection_event import InspectionEvent

WINDOW_S = 10
"""Time over which rates are measured, in whole seconds."""
# Bounds the memory of a client that invents a name for each frame.
_MAX_CAMERAS = 256
_MAX_CAMERAS_OF_STREAM = 16
_RECENT_S = 600.0
_FORGET_AFTER_S = 86_400.0
_MINUTES, _MINUTE_S = 60, 60.0
_MAX_P_VALUES = 60


class SlidingCount:
    """A count within a sliding window, kept in periods of equal length."""

    def __init__(self, periods: int, period_s: float) -> None:
        self._period_s = period_s
        self._counts = [0] * periods
        self._period = self._now()

    def add(self) -> None:
        """Count one."""
        self._advance()
        self._counts[self._period % len(self._counts)] += 1

    @property
    def total(self) -> int:
        """Count of the current period and those before it."""
        self._advance()
        return sum(self._counts)

    @property
    def begin_s(self) -> float:
        """Begin of the window on the clock of ``time.monotonic()``."""
        self._advance()
        return (self._period - len(self._counts) + 1) * self._period_s

    def _now(self) -> int:
        return int(time.monotonic() / self._period_s)

    def _advance(self) -> None:
        """Set the counts of the periods since the last call to 0."""
        now, periods = self._now(), len(self._counts)
        for period in range(max(self._period, now - periods) + 1, now + 1):
            self._counts[period % periods] = 0
        self._period = now


class RateMeter:
    """The images per second within the last ``WINDOW_S``, counted by whole seconds."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self._count = SlidingCount(WINDOW_S, 1.0)

    def count(self) -> None:
        """Count an image."""
        self._count.add()

    @property
    def per_second(self) -> float:
        """Images per second, since the start if that is more recent than the window."""
        total = self._count.total
        span_s = time.monotonic() - max(self._start_s, self._count.begin_s)
        return total / max(span_s, 1.0)


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
    last: InspectionEvent | None = None

    def observe(self, inspection: Inspection) -> None:
        """Note the inspection of a frame."""
        self.meter.count()
        self.last = InspectionEvent.of(inspection)
        if inspection.capture.camera and len(self.cameras) < _MAX_CAMERAS_OF_STREAM:
            self.cameras[inspection.capture.camera] = None


@dataclass(eq=False)
class ActiveCamera:
    """A named camera that sent images within the last day."""

    name: str
    caller: str
    """Caller that sent the latest image."""
    seen_s: float = field(default_factory=time.monotonic)
    """Time of the latest image, on the clock of ``time.monotonic()``."""
    last: InspectionEvent | None = None
    """Latest inspection; None if all its frames were dropped or refused."""
    meter: RateMeter = field(default_factory=RateMeter)
    inspected: int = 0
    anomalous: int = 0
    dropped: int = 0
    """Frames that newer ones superseded."""
    refused: int = 0
    """Frames that were answered with a refusal."""
    hour_inspected: SlidingCount = field(default_factory=lambda: SlidingCount(_MINUTES, _MINUTE_S))
    hour_anomalous: SlidingCount = field(default_factory=lambda: SlidingCount(_MINUTES, _MINUTE_S))
    p_values: deque[float] = field(default_factory=lambda: deque(maxlen=_MAX_P_VALUES))
    """P-values of the latest inspections, the oldest first."""

    def observe(self, event: InspectionEvent) -> None:
        """Note an inspection."""
        self.last = event
        self.meter.count()
        self.inspected += 1
        self.hour_inspected.add()
        if event.is_anomalous:
            self.anomalous += 1
            self.hour_anomalous.add()
        self.p_values.append(event.p_value)


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
        """Cameras of the last day, by name."""
        return self._cameras_since(time.monotonic() - _FORGET_AFTER_S)

    @property
    def inspected_cameras(self) -> list[ActiveCamera]:
        """Cameras with an inspection that sent an image in the last ten minutes, by name."""
        recent = self._cameras_since(time.monotonic() - _RECENT_S)
        return [camera for camera in recent if camera.last is not None]

    @contextmanager
    def track(self, model: ModelRef, queue: FrameQueue[Any, Any]) -> Iterator[OpenStream]:
        """Show a stream of the current caller while it is open."""
        stream = OpenStream(model, queue, current_caller.get().name)
        self._streams.append(stream)
        try:
            yield stream
        finally:
            self._streams.remove(stream)

    def observe(self, event: InspectionEvent) -> None:
        """Note the inspection of an image, if its camera has a name."""
        if event.camera:
            self._seen(event.camera).observe(event)

    def dropped(self, camera: str, frames: int) -> None:
        """Note frames of a stream that newer ones superseded, if their camera has a name."""
        if camera:
            self._seen(camera).dropped += frames

    def refused(self, camera: str) -> None:
        """Note a frame of a stream that was refused, if its camera has a name."""
        if camera:
            self._seen(camera).refused += 1

    def _seen(self, name: str) -> ActiveCamera:
        """Return the camera that just sent an image."""
        now_s, caller = time.monotonic(), current_caller.get().name
        camera = self._cameras.get(name)
        if camera is None or now_s - camera.seen_s >= _FORGET_AFTER_S:
            camera = self._cameras[name] = ActiveCamera(name, caller)
        camera.caller, camera.seen_s = caller, now_s
        self._cameras.move_to_end(name)
        if len(self._cameras) > _MAX_CAMERAS:
            self._cameras.popitem(last=False)
        return camera

    def _cameras_since(self, begin_s: float) -> list[ActiveCamera]:
        recent = [camera for camera in self._cameras.values() if camera.seen_s > begin_s]
        return sorted(recent, key=lambda camera: camera.name)
