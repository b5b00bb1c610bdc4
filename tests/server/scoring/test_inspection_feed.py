# SPDX-License-Identifier: Apache-2.0
"""Events of inspections: filters, bounds, and thumbnails off the scoring path."""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tests.support.inspections import make_capture, make_event, make_inspection

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput, Region
from blemish_core.platform.errors import Overloaded
from blemish_core.platform.names import ModelRef
from blemish_server.metrics.activity import Activity
from blemish_server.scoring.inspection import Inspection
from blemish_server.scoring.inspection_event import InspectionEvent
from blemish_server.scoring.inspection_feed import (
    MAX_PENDING,
    InspectionFeed,
    ThumbnailRequest,
    Watcher,
    WatchFilter,
)
from blemish_server.scoring.thumbnail import InspectionThumbnail, ThumbnailStyle, draw_thumbnails

ALL = WatchFilter()
PLAIN = ThumbnailStyle(32, with_heat=False)
HEAT = ThumbnailStyle(32, with_heat=True)


def make_feed(max_watchers: int = 4) -> InspectionFeed:
    return InspectionFeed(Activity(), ImageLimits(), max_watchers)


def png(width: int = 64, height: int = 48, level: int = 90) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (level, level, level)).save(out, "PNG")
    return out.getvalue()


def inspected(score: float = 0.5, *, camera: str = "left", sequence: int | None = None) -> Inspection:
    capture = replace(make_capture(png(), camera=camera), sequence=sequence)
    return make_inspection(score, capture=capture, shape=(48, 64))


def taken(watcher: Watcher) -> list[InspectionEvent | InspectionThumbnail]:
    return list(iter(watcher.take, None))


@asynccontextmanager
async def running(feed: InspectionFeed) -> AsyncIterator[None]:
    task = asyncio.create_task(feed.run())
    yield
    task.cancel()


async def next_thumbnail(watcher: Watcher) -> InspectionThumbnail:
    async with asyncio.timeout(10):
        while True:
            await watcher.ready.wait()
            while (found := watcher.take()) is not None:
                if isinstance(found, InspectionThumbnail):
                    return found


@pytest.mark.parametrize(
    ("watch_filter", "selected"),
    [
        (ALL, [0, 1, 2, 3]),
        (WatchFilter(cameras=frozenset({"left"})), [0, 1]),
        (WatchFilter(cameras=frozenset({""})), [3]),
        (WatchFilter(verdicts=frozenset({True})), [1, 2]),
        (WatchFilter(verdicts=frozenset({True, False})), [0, 1, 2, 3]),
        (WatchFilter(models=frozenset({ModelRef("tile")})), [0, 1, 2]),
        (WatchFilter(models=frozenset({ModelRef("tile", 2)})), [2]),
        (WatchFilter(models=frozenset({ModelRef("tile", 2), ModelRef("grid")})), [2, 3]),
        (WatchFilter(frozenset({"left"}), frozenset({ModelRef("grid")})), []),
    ],
)
def test_filter_selects_by_camera_model_and_verdict(watch_filter: WatchFilter, selected: list[int]) -> None:
    events = [
        make_event(0.5),
        make_event(2.0),
        make_event(2.0, camera="right", version=ModelRef("tile", 2)),
        make_event(0.5, camera="", version=ModelRef("grid", 1)),
    ]
    assert [number for number, event in enumerate(events) if watch_filter.selects(event)] == selected


async def test_watcher_receives_events_from_its_begin_to_its_end() -> None:
    feed = make_feed()
    feed.publish(inspected(sequence=1))
    with feed.watch(ALL) as watcher:
        assert feed.watchers == 1
        feed.publish(inspected(2.0, sequence=2))
        (event,) = taken(watcher)
    feed.publish(inspected(sequence=3))
    assert isinstance(event, InspectionEvent)
    assert (event.sequence, event.is_anomalous, event.score, event.threshold) == (2, True, 2.0, 1.0)
    assert (event.camera, event.version, event.shape) == ("left", ModelRef("tile", 1), (48, 64))
    assert event.p_value == pytest.approx(0.25)
    assert watcher.take() is None
    assert feed.watchers == 0


async def test_slow_watcher_loses_its_oldest_events_by_count() -> None:
    feed = make_feed()
    with feed.watch(ALL) as slow, feed.watch(ALL) as fast:
        for number in range(MAX_PENDING + 10):
            feed.publish(inspected(sequence=number))
            assert len(taken(fast)) == 1
        assert (slow.take_lost(), slow.take_lost(), fast.take_lost()) == (10, 0, 0)
        kept = taken(slow)
    assert len(kept) == MAX_PENDING
    first, last = kept[0], kept[-1]
    assert isinstance(first, InspectionEvent)
    assert isinstance(last, InspectionEvent)
    assert (first.sequence, last.sequence) == (10, MAX_PENDING + 9)
    assert feed.counts.lost == 10


async def test_watchers_beyond_the_limit_are_rejected() -> None:
    feed = make_feed(max_watchers=1)
    with feed.watch(ALL), pytest.raises(Overloaded, match="BLEMISH_MAX_WATCHERS"), feed.watch(ALL):
        pass
    with feed.watch(ALL):
        assert feed.watchers == 1


async def test_activity_follows_without_watchers() -> None:
    activity = Activity()
    InspectionFeed(activity, ImageLimits(), 1).publish(inspected(2.0))
    (camera,) = activity.cameras
    assert camera.anomalous == 1


async def test_thumbnail_is_drawn_for_watchers_that_asked() -> None:
    feed = make_feed()
    with (
        feed.watch(ALL) as without,
        feed.watch(ALL, ThumbnailRequest(PLAIN, 10)) as plain,
        feed.watch(ALL, ThumbnailRequest(HEAT, 10)) as heat,
    ):
        async with running(feed):
            feed.publish(inspected(2.0, sequence=7))
            plain_one, heat_one = await next_thumbnail(plain), await next_thumbnail(heat)
        assert [type(each) for each in taken(without)] == [InspectionEvent]
    for thumbnail in (plain_one, heat_one):
        assert Image.open(io.BytesIO(thumbnail.jpeg)).size == (32, 24)
        assert thumbnail.event.sequence == 7
    assert (plain_one.style, heat_one.style) == (PLAIN, HEAT)
    assert feed.counts.thumbnails == 2


async def test_no_thumbnail_is_drawn_for_events_that_no_watcher_selects() -> None:
    feed = make_feed()
    anomalous = WatchFilter(verdicts=frozenset({True}))
    with feed.watch(anomalous, ThumbnailRequest(PLAIN, 10)) as watcher:
        async with running(feed):
            feed.publish(inspected(0.5, sequence=1))
            feed.publish(inspected(2.0, sequence=2))
            assert (await next_thumbnail(watcher)).event.sequence == 2
    assert feed.counts.thumbnails == 1


async def test_rate_of_thumbnails_is_limited_for_each_camera_and_verdict() -> None:
    feed = make_feed()
    with feed.watch(ALL, ThumbnailRequest(PLAIN, 0.01)) as watcher:
        async with running(feed):
            for camera, score in (("left", 0.5), ("left", 2.0), ("right", 0.5)) * 3:
                feed.publish(inspected(score, camera=camera))
                await asyncio.sleep(0.02)
            seen = {
                (thumbnail.event.camera, thumbnail.event.is_anomalous)
                for thumbnail in [await next_thumbnail(watcher) for _ in range(3)]
            }
        assert seen == {("left", False), ("left", True), ("right", False)}
    assert feed.counts.thumbnails == 3


async def test_new_watcher_begins_with_the_latest_thumbnails() -> None:
    feed = make_feed()
    with feed.watch(ALL, ThumbnailRequest(PLAIN, 10)) as watcher:
        async with running(feed):
            feed.publish(inspected(2.0, sequence=7))
            first = await next_thumbnail(watcher)
    with feed.watch(ALL, ThumbnailRequest(PLAIN, 1)) as again:
        assert taken(again) == [first]
    with feed.watch(ALL, ThumbnailRequest(HEAT, 1)) as other:
        assert taken(other) == []


async def test_images_that_wait_for_a_thumbnail_are_bounded_and_newer_ones_replace_older_ones() -> None:
    feed = make_feed()
    with feed.watch(ALL, ThumbnailRequest(PLAIN, 10)) as watcher:
        for number in range(1000):
            feed.publish(inspected(sequence=number))
            taken(watcher)
        async with running(feed):
            assert (await next_thumbnail(watcher)).event.sequence == 999
            await asyncio.sleep(0.05)
    assert feed.counts.thumbnails == 1


async def test_publishing_does_not_wait_for_thumbnails() -> None:
    feed = make_feed()
    large = make_capture(png(3000, 2000), camera="left")
    with feed.watch(ALL, ThumbnailRequest(PLAIN, 10)):
        async with running(feed):
            began_s = time.perf_counter()
            for _ in range(100):
                feed.publish(make_inspection(2.0, capture=large))
            assert time.perf_counter() - began_s < 0.1


async def test_watcher_that_reads_no_thumbnails_holds_few() -> None:
    watcher = Watcher(ALL, ThumbnailRequest(PLAIN, 10))
    for number in range(1000):
        watcher.add_thumbnail(InspectionThumbnail(make_event(camera=f"camera {number}"), PLAIN, b"jpeg"))
    assert len(taken(watcher)) == 64


async def test_events_and_thumbnails_take_turns() -> None:
    watcher = Watcher(ALL, ThumbnailRequest(PLAIN, 10))
    for number in range(3):
        watcher.add(make_event())
        watcher.add_thumbnail(InspectionThumbnail(make_event(camera=f"camera {number}"), PLAIN, b"jpeg"))
    kinds = [type(each) for each in taken(watcher)]
    assert kinds == [InspectionEvent, InspectionThumbnail] * 3


def test_thumbnail_of_a_part_shows_that_part_with_regions_of_the_whole_image() -> None:
    pixels = np.full((48, 64, 3), 90, np.uint8)
    pixels[:, 32:] = 200
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    capture = replace(make_capture(), image=ImageInput(out.getvalue(), None, Region(32, 0, 32, 48)))
    inspection = make_inspection(2.0, capture=capture, shape=(48, 32))
    inspection.prediction.anomaly_map[1, 1] = 5.0

    (drawn,) = draw_thumbnails(inspection, InspectionEvent.of(inspection), [PLAIN], ImageLimits())

    picture = np.asarray(Image.open(io.BytesIO(drawn.jpeg)))
    assert picture.shape == (32, 21, 3)
    assert picture.min() > 180
    (region,) = drawn.event.regions
    assert region.box.left >= 32


def test_heat_shows_the_defect_and_leaves_the_rest() -> None:
    inspection = inspected(2.0)
    inspection.prediction.anomaly_map[:2, :2] = 5.0
    (drawn,) = draw_thumbnails(inspection, InspectionEvent.of(inspection), [HEAT], ImageLimits())
    picture = np.asarray(Image.open(io.BytesIO(drawn.jpeg))).astype(int)
    red = picture[..., 0] - picture[..., 2]
    assert red[:8, :10].min() > 60
    assert abs(red[16:, 20:]).max() < 20
