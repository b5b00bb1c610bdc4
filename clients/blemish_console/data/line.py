# SPDX-License-Identifier: Apache-2.0
"""The cameras of the line as one watcher of the server sees them, for all open pages of a session."""

import asyncio
import logging
import math
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish.v1.inspection_pb2 import (
    CameraState,
    CameraStates,
    InspectionEvent,
    InspectionThumbnail,
    WatchInspectionsResponse,
)
from blemish_client.aio import AsyncClient
from blemish_client.errors import BlemishError, Unauthenticated
from blemish_client.transport.retry import RetryPolicy

SILENT_AFTER_S = 10.0
"""Time without an image after which a camera counts as silent."""
FORGET_AFTER_S = 24 * 3600.0
"""Time without an image after which a camera is no longer shown."""
WITHOUT_END = RetryPolicy(watch_s=math.inf, call_s=math.inf)
"""The retries of a watcher: it awaits the server for as long as a page is open."""
MAX_P_VALUES = 60
_THUMBNAIL_PX = 320
_REFUSED_PAUSE_S = 5.0

_log = logging.getLogger("blemish_console.line")


@dataclass
class LineCamera:
    """The latest state of a camera."""

    name: str
    state: CameraState = field(default_factory=CameraState)
    last: InspectionEvent | None = None
    """Latest inspection. None if all its frames were dropped or refused."""
    p_values: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_P_VALUES))
    """P-values of the latest inspections, the oldest first."""
    picture: InspectionEvent | None = None
    """Inspection of the picture, with regions. It may be older than the latest one."""
    picture_url: str = ""
    """The picture as a data URL; empty without one."""
    seen_s: float = -math.inf
    """Time of the latest inspection, on the clock of the watch."""
    anomalous_s: float | None = None
    """Time of the latest anomalous inspection that the watch received."""
    revision: int = 0
    """Number of changes, by which a page finds what it has not drawn."""

    @property
    def hour_share(self) -> float | None:
        """Share of anomalous images in the last hour, or None without images."""
        return self.state.hour_anomalous / self.state.hour_inspected if self.state.hour_inspected else None

    def silent_s(self, now_s: float) -> float | None:
        """Return the time since the latest inspection, or None if it was a moment ago or never."""
        age_s = now_s - self.seen_s
        return age_s if SILENT_AFTER_S < age_s < math.inf else None


class LineWatch:
    """A watcher of the server that runs while at least one page is open."""

    def __init__(
        self,
        open_client: Callable[[], AsyncClient],
        on_rejected: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare a watcher without starting it.

        Args:
            open_client: returns a client, which the watcher closes.
            on_rejected: called if the server rejects the token.
            clock: returns a time in seconds.
            wall_clock: returns the time of day, in seconds since 1970.
        """
        self._open_client = open_client
        self._on_rejected = on_rejected
        self._clock = clock
        self._wall_clock = wall_clock
        self._pages = 0
        self._task: asyncio.Task[None] | None = None
        self._reset()

    def _reset(self) -> None:
        self.cameras: dict[str, LineCamera] = {}
        """Cameras by name."""
        self.lost = 0
        """Verdicts that were lost since the first page was opened."""
        self.has_begun = False
        """True once the server has sent its cameras."""
        self.failure: BlemishError | None = None
        """Reason for which the server is not watched; None while it is."""
        self.failed_s = 0.0
        """Time of the failure, on the clock of the watch."""

    @property
    def now_s(self) -> float:
        return self._clock()

    @property
    def is_running(self) -> bool:
        return self._task is not None

    def page_opened(self) -> None:
        """Count a page, and start to watch for the first one."""
        self._pages += 1
        if self._task is None:
            self._reset()
            self._task = asyncio.get_running_loop().create_task(self._run())

    def page_closed(self) -> None:
        """Count a page no longer, and end the watch with the last one."""
        self._pages -= 1
        if not self._pages:
            self.close()

    def close(self) -> None:
        """End the watch and discard what it has received."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._reset()

    async def _run(self) -> None:
        while True:
            pause_s = _REFUSED_PAUSE_S
            try:
                await self._watch()
            except Unauthenticated as error:
                self._fail(error)
                self._on_rejected()
                return
            except BlemishError as error:  # such as a server with too many watchers
                self._fail(error)
                pause_s = max(pause_s, error.retry_after_s or 0.0)
            except Exception:
                _log.exception("watch of the line failed")
                raise
            await asyncio.sleep(pause_s)

    async def _watch(self) -> None:
        async with self._open_client() as client:
            responses = client.watch_inspections(
                thumbnail=_THUMBNAIL_PX, heat=True, on_unreachable=self._fail
            )
            async with aclosing(responses):
                async for response in responses:
                    self.add(response)

    def _fail(self, error: BlemishError) -> None:
        if self.failure is None:
            self.failed_s = self._clock()
        self.failure = error

    def add(self, response: WatchInspectionsResponse) -> None:
        """Take over a response of the server."""
        self.failure = None
        self.lost += response.lost
        if response.HasField("states"):
            self._add_states(response.states)
        elif response.HasField("inspection"):
            self._add_inspection(response.inspection)
        elif response.HasField("thumbnail"):
            self._add_thumbnail(response.thumbnail)

    def _add_states(self, states: CameraStates) -> None:
        self.has_begun = True
        now_s = self._clock()
        for state in states.cameras:
            camera = self._camera(state.camera)
            camera.state = state
            camera.revision += 1
            if state.HasField("last") and not _is_later(camera.last, state.last.time):
                camera.last = state.last
                camera.seen_s = now_s - self._age_s(state.last.time)
                camera.p_values = deque(state.recent_p_values, MAX_P_VALUES)
        sent = {state.camera for state in states.cameras}
        for name in [name for name in self.cameras if name not in sent]:
            self._miss(self.cameras[name], now_s)

    def _miss(self, camera: LineCamera, now_s: float) -> None:
        """Keep a camera that is silent since a restart of the server, which starts all counts again."""
        if FORGET_AFTER_S < now_s - camera.seen_s < math.inf:
            del self.cameras[camera.name]
        elif camera.state.images_per_second:
            camera.state.images_per_second = 0.0
            camera.revision += 1

    def _add_inspection(self, event: InspectionEvent) -> None:
        if not event.camera:  # the server counts no cameras without a name either
            return
        camera = self._camera(event.camera)
        if event.verdict == VERDICT_ANOMALOUS:
            camera.anomalous_s = self._clock()
        if _is_later(camera.last, event.time):
            return
        camera.last = event
        camera.seen_s = self._clock()
        camera.p_values.append(event.p_value)
        camera.revision += 1

    def _add_thumbnail(self, thumbnail: InspectionThumbnail) -> None:
        event = thumbnail.inspection
        if not event.camera:
            return
        camera = self._camera(event.camera)
        if _is_later(camera.picture, event.time):
            return
        camera.picture = event
        camera.picture_url = f"data:image/jpeg;base64,{b64encode(thumbnail.jpeg).decode()}"
        camera.revision += 1

    def _camera(self, name: str) -> LineCamera:
        return self.cameras.setdefault(name, LineCamera(name))

    def _age_s(self, then: Timestamp) -> float:
        """Return the age of an event of the server, whose clock may run ahead of this one's."""
        return max(0.0, self._wall_clock() - then.seconds - then.nanos / 1e9)


def _is_later(event: InspectionEvent | None, time: Timestamp) -> bool:
    """Return whether an event was later than ``time``."""
    return event is not None and event.time.ToNanoseconds() > time.ToNanoseconds()
