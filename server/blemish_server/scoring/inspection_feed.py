# SPDX-License-Identifier: Apache-2.0
"""The verdicts of this server as they are given, for any number of watchers up to a limit.

Publishing never waits. Each watcher has a bounded queue. If it reads too slowly, the oldest events are
discarded and counted. Thumbnails are drawn one at a time in a thread, for watchers that asked for them.
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import BlemishError, Overloaded
from blemish_core.platform.names import ModelRef
from blemish_server.scoring.background_queue import BackgroundQueue
from blemish_server.scoring.inspection import Inspection
from blemish_server.scoring.inspection_event import InspectionEvent
from blemish_server.scoring.thumbnail import InspectionThumbnail, ThumbnailStyle, draw_thumbnails

MAX_PENDING = 256
"""Events that wait for a watcher."""
_MAX_THUMBNAILS = 64
_MAX_CLOCKS = 1024
_MAX_LATEST = 128
_MAX_UNDRAWN = 256
_MAX_UNDRAWN_BYTES = 64 << 20
# Drawing takes a fifth of one core, and a twenty-fifth while images queue for scoring.
_PAUSE_FACTOR, _BUSY_PAUSE_FACTOR = 4.0, 24.0
_BUSY_QUEUE_S = 0.01
_FAILURE_S = 0.1
_RETRY_S = 5.0

log = structlog.get_logger(__name__)


class EventObserver(Protocol):
    """The state of cameras, which follows the events."""

    def observe(self, event: InspectionEvent) -> None:
        """Note an event."""


@dataclass(frozen=True)
class WatchFilter:
    """The events that a watcher receives. An empty set selects all."""

    cameras: frozenset[str] = frozenset()
    models: frozenset[ModelRef] = frozenset()
    """Models, or versions of them."""
    verdicts: frozenset[bool] = frozenset()
    """Verdicts; True means anomalous."""

    def selects_camera(self, name: str) -> bool:
        """Return whether a watcher receives what concerns a camera."""
        return not self.cameras or name in self.cameras

    def selects(self, event: InspectionEvent) -> bool:
        """Return whether a watcher receives an event."""
        return (
            self.selects_camera(event.camera)
            and (not self.verdicts or event.is_anomalous in self.verdicts)
            and (
                not self.models
                or event.version in self.models
                or ModelRef(event.version.model) in self.models
            )
        )


@dataclass(frozen=True)
class ThumbnailRequest:
    """The thumbnails that a watcher receives."""

    style: ThumbnailStyle
    per_second: float
    """Most thumbnails of each camera and verdict."""


class Watcher:
    """The events and thumbnails that wait for one watcher."""

    def __init__(self, watch_filter: WatchFilter, thumbnails: ThumbnailRequest | None = None) -> None:
        self.filter = watch_filter
        self.thumbnails = thumbnails
        self.ready = asyncio.Event()
        """Set while something waits."""
        self.lost = 0
        """Events discarded so far."""
        self._lost_before = 0
        self._is_turn_of_event = True
        self._events: deque[InspectionEvent] = deque()
        self._thumbnails: OrderedDict[object, InspectionThumbnail] = OrderedDict()
        self._drawn_s: dict[tuple[str, bool], float] = {}
        """Time of the latest thumbnail by camera and verdict."""

    def add(self, event: InspectionEvent) -> bool:
        """Add an event. Return False if an older one was discarded for it."""
        has_room = len(self._events) < MAX_PENDING
        if not has_room:
            self._events.popleft()
            self.lost += 1
        self._events.append(event)
        self.ready.set()
        return has_room

    def add_thumbnail(self, thumbnail: InspectionThumbnail) -> None:
        """Add a thumbnail. It replaces one of the same camera, model and verdict that waits."""
        key = _key(thumbnail.event)
        self._thumbnails.pop(key, None)
        self._thumbnails[key] = thumbnail
        if len(self._thumbnails) > _MAX_THUMBNAILS:
            self._thumbnails.popitem(last=False)
        self.ready.set()

    def take(self) -> InspectionEvent | InspectionThumbnail | None:
        """Remove and return the oldest event or thumbnail, in turns if both wait, or None."""
        if self._thumbnails and not (self._events and self._is_turn_of_event):
            self._is_turn_of_event = True
            return self._thumbnails.popitem(last=False)[1]
        self._is_turn_of_event = False
        if self._events:
            return self._events.popleft()
        self.ready.clear()
        return None

    def take_lost(self) -> int:
        """Return the number of events that were discarded since the last call."""
        lost, self._lost_before = self.lost - self._lost_before, self.lost
        return lost

    def wants_thumbnail(self, event: InspectionEvent, now_s: float) -> bool:
        """Return whether a thumbnail of an event is due."""
        if self.thumbnails is None or not self.filter.selects(event):
            return False
        last_s = self._drawn_s.get((event.camera, event.is_anomalous), -math.inf)
        return now_s - last_s >= 1 / self.thumbnails.per_second

    def thumbnail_begun(self, event: InspectionEvent, now_s: float) -> None:
        """Note that a thumbnail is being drawn."""
        if len(self._drawn_s) >= _MAX_CLOCKS:  # a client invents names of cameras
            self._drawn_s.clear()
        self._drawn_s[event.camera, event.is_anomalous] = now_s


@dataclass
class FeedCounts:
    """The counts of a feed since its start."""

    lost: int = 0
    """Events that slow watchers did not receive."""
    thumbnails: int = 0
    """Thumbnails drawn."""


@dataclass(frozen=True)
class _Undrawn:
    """An image that waits for its thumbnails."""

    inspection: Inspection
    event: InspectionEvent


@dataclass(eq=False)
class InspectionFeed:
    """The hub between the scoring of images and the watchers of verdicts."""

    observer: EventObserver
    limits: ImageLimits
    max_watchers: int
    counts: FeedCounts = field(default_factory=FeedCounts)

    def __post_init__(self) -> None:
        self._watchers: list[Watcher] = []
        self._undrawn: BackgroundQueue[_Undrawn] = BackgroundQueue(_MAX_UNDRAWN, _MAX_UNDRAWN_BYTES)
        self._latest: OrderedDict[tuple[str, ThumbnailStyle], InspectionThumbnail] = OrderedDict()

    @property
    def watchers(self) -> int:
        """Number of watchers."""
        return len(self._watchers)

    @contextmanager
    def watch(
        self, watch_filter: WatchFilter, thumbnails: ThumbnailRequest | None = None
    ) -> Iterator[Watcher]:
        """Add a watcher, which begins with the latest thumbnails of its style.

        Raises:
            Overloaded: if there are as many watchers as the limit allows.
        """
        if len(self._watchers) >= self.max_watchers:
            raise Overloaded(
                f"{self.max_watchers} clients are watching already; end one of them, or raise "
                "BLEMISH_MAX_WATCHERS",
                retry_after_s=_RETRY_S,
            )
        watcher = Watcher(watch_filter, thumbnails)
        if thumbnails is not None:
            for (_, style), latest in self._latest.items():
                if style == thumbnails.style and watch_filter.selects(latest.event):
                    watcher.add_thumbnail(latest)
        self._watchers.append(watcher)
        try:
            yield watcher
        finally:
            self._watchers.remove(watcher)

    def publish(self, inspection: Inspection) -> None:
        """Send the event of an inspection to the watchers without waiting."""
        event = InspectionEvent.of(inspection)
        self.observer.observe(event)
        if not self._watchers:
            return
        now_s, wanted = time.monotonic(), False
        for watcher in self._watchers:
            if watcher.filter.selects(event):
                self.counts.lost += not watcher.add(event)
                wanted = wanted or watcher.wants_thumbnail(event, now_s)
        if wanted:
            size_bytes = len(inspection.capture.image.data) + inspection.prediction.anomaly_map.nbytes
            self._undrawn.put(_Undrawn(inspection, event), key=_key(event), size_bytes=size_bytes)

    async def run(self) -> None:
        """Draw thumbnails until cancelled."""
        while True:
            await self._undrawn.wait(math.inf)
            for undrawn in self._undrawn.take(1):
                spent_s = _FAILURE_S
                try:
                    spent_s = await self._draw(undrawn)
                except BlemishError as error:  # cannot happen, because the image was decoded for scoring
                    log.warning("thumbnail not drawn", reason=str(error))
                except Exception:
                    log.exception("thumbnail not drawn; this is a bug")
                is_busy = undrawn.inspection.timings.queue_s > _BUSY_QUEUE_S
                await asyncio.sleep(spent_s * (_BUSY_PAUSE_FACTOR if is_busy else _PAUSE_FACTOR))

    async def _draw(self, undrawn: _Undrawn) -> float:
        """Draw the thumbnails of an image that are due. Return the CPU time that it took, in seconds."""
        now_s, event = time.monotonic(), undrawn.event
        waiting: dict[ThumbnailStyle, list[Watcher]] = {}
        for watcher in self._watchers:
            if watcher.thumbnails is not None and watcher.wants_thumbnail(event, now_s):
                watcher.thumbnail_begun(event, now_s)
                waiting.setdefault(watcher.thumbnails.style, []).append(watcher)
        if not waiting:
            return 0.0
        drawn, spent_s = await asyncio.to_thread(
            _draw_and_measure, undrawn.inspection, event, tuple(waiting), self.limits
        )
        for thumbnail in drawn:
            self.counts.thumbnails += 1
            self._remember(thumbnail)
            for watcher in waiting[thumbnail.style]:
                watcher.add_thumbnail(thumbnail)
        return spent_s

    def _remember(self, thumbnail: InspectionThumbnail) -> None:
        key = thumbnail.event.camera, thumbnail.style
        self._latest.pop(key, None)
        self._latest[key] = thumbnail
        if len(self._latest) > _MAX_LATEST:
            self._latest.popitem(last=False)


def _draw_and_measure(
    inspection: Inspection, event: InspectionEvent, styles: tuple[ThumbnailStyle, ...], limits: ImageLimits
) -> tuple[list[InspectionThumbnail], float]:
    """Return thumbnails, and the CPU time that they took in seconds."""
    began_s = time.thread_time()
    return draw_thumbnails(inspection, event, styles, limits), time.thread_time() - began_s


def _key(event: InspectionEvent) -> tuple[str, str, bool]:
    """Return what distinguishes images of which one does not replace another."""
    return event.camera, event.version.model, event.is_anomalous
