# SPDX-License-Identifier: Apache-2.0
"""The responses to the watchers of inspections."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from weakref import WeakKeyDictionary

from blemish.v1 import inspection_pb2 as pb
from blemish_server.converters.watching import (
    WatchOptions,
    camera_state_to_proto,
    event_to_proto,
    thumbnail_to_proto,
)
from blemish_server.metrics.activity import Activity
from blemish_server.scoring.inspection_event import InspectionEvent
from blemish_server.scoring.inspection_feed import InspectionFeed, WatchFilter
from blemish_server.scoring.thumbnail import InspectionThumbnail


class InspectionWatches:
    """The responses of all calls of WatchInspections."""

    def __init__(self, feed: InspectionFeed, activity: Activity) -> None:
        self._feed = feed
        self._activity = activity
        # Each event is converted once for all watchers.
        self._events: WeakKeyDictionary[InspectionEvent, pb.WatchInspectionsResponse] = WeakKeyDictionary()

    async def responses(
        self, options: WatchOptions, ending: asyncio.Event
    ) -> AsyncGenerator[pb.WatchInspectionsResponse]:
        """Yield the states of cameras, then events and further states, until ``ending`` is set.

        Raises:
            Overloaded: if there are too many watchers.
        """
        with self._feed.watch(options.filter, options.thumbnails) as watcher:
            waker = asyncio.create_task(_set_when(ending, watcher.ready))
            try:
                yield self._states(options.filter, with_history=True)
                next_states_s = time.monotonic() + options.state_interval_s
                while not ending.is_set():
                    if time.monotonic() >= next_states_s:
                        yield _with_lost(self._states(options.filter), watcher.take_lost())
                        next_states_s = time.monotonic() + options.state_interval_s
                    if (taken := watcher.take()) is not None:
                        yield _with_lost(self._response(taken), watcher.take_lost())
                        continue
                    with suppress(TimeoutError):
                        async with asyncio.timeout(max(next_states_s - time.monotonic(), 0)):
                            await watcher.ready.wait()
            finally:
                waker.cancel()

    def _states(
        self, watch_filter: WatchFilter, *, with_history: bool = False
    ) -> pb.WatchInspectionsResponse:
        states = pb.CameraStates(
            cameras=[
                camera_state_to_proto(camera, with_history=with_history)
                for camera in self._activity.cameras
                if watch_filter.selects_camera(camera.name)
            ]
        )
        return pb.WatchInspectionsResponse(states=states)

    def _response(self, taken: InspectionEvent | InspectionThumbnail) -> pb.WatchInspectionsResponse:
        if isinstance(taken, InspectionThumbnail):
            return pb.WatchInspectionsResponse(thumbnail=thumbnail_to_proto(taken))
        response = self._events.get(taken)
        if response is None:
            response = pb.WatchInspectionsResponse(inspection=event_to_proto(taken))
            self._events[taken] = response
        return response


async def _set_when(event: asyncio.Event, other: asyncio.Event) -> None:
    """Set an event once another one is set."""
    await event.wait()
    other.set()


def _with_lost(response: pb.WatchInspectionsResponse, lost: int) -> pb.WatchInspectionsResponse:
    """Return a response with the number of events that were discarded before it."""
    if not lost:
        return response
    counted = pb.WatchInspectionsResponse()
    counted.CopyFrom(response)
    counted.lost = lost
    return counted
