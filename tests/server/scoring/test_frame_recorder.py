# SPDX-License-Identifier: Apache-2.0
"""Recording of frames: bounded, in batches, retried while Qdrant is unavailable, swept."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from tests.support.inspections import make_capture, make_inspection
from tests.support.qdrant_twin import TwinPoints, in_memory_qdrant
from tests.support.regions import make_region

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import RawLayout
from blemish_core.platform.errors import Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.conditions import ANY_ITEM
from blemish_core.search.finder import Finder
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.item import Item, Label
from blemish_core.search.query import Query, Vector
from blemish_core.search.search_index import SearchIndex
from blemish_server.converters.search import hit_to_proto, item_to_proto, parse_where
from blemish_server.scoring import frame_recorder as module
from blemish_server.scoring.frame_recorder import FrameRecorder, FrameRetention, recorded_item
from blemish_server.scoring.inspection import Inspection

VERSION = ModelRef("tile", 1)
LENIENT = FrameRetention(max_frames=1000, max_days=90)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]


class FakeIndex(SearchIndex):
    """An index in memory, which can be unavailable and records the sizes of its batches."""

    def __init__(self) -> None:
        self.twin = in_memory_qdrant()
        super().__init__(self.twin)
        self.unavailable = False
        self.batches: list[int] = []

    def put(self, version: ModelRef, items: Sequence[Item], vectors: Vector, job: str = "") -> None:
        if self.unavailable:
            raise Unavailable("unavailable", dependency="qdrant")
        self.batches.append(len(items))
        super().put(version, items, vectors, job)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COLLECT_S", 0.02)
    monkeypatch.setattr(module, "_RETRY_S", 0.02)


@pytest.fixture
def index() -> Iterator[FakeIndex]:
    yield FakeIndex()


@pytest.fixture
def frames(tmp_path: Path) -> FrameStore:
    return FrameStore(tmp_path)


def frame(
    number: int, camera: str = "line", time: datetime | None = None, score: float = 2.0
) -> Inspection:
    """Return the inspection of a frame whose image depends on its number."""
    capture = make_capture(f"picture {number}".encode(), camera=camera, time=time)
    return make_inspection(score, version=VERSION, capture=capture)


def exists(version: ModelRef) -> bool:
    return version == VERSION


@asynccontextmanager
async def running(
    index: SearchIndex,
    frames: FrameStore,
    retention: FrameRetention = LENIENT,
    exists: Callable[[ModelRef], bool] = exists,
) -> AsyncIterator[FrameRecorder]:
    recorder = FrameRecorder(index, frames, ImageLimits(), retention, exists)
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_recorded_item_is_that_of_the_index(index: FakeIndex, frames: FrameStore) -> None:
    inspection = frame(7)
    async with running(index, frames) as recorder:
        assert recorder.enqueue(inspection)
        await recorder.drain(5)
    (found,), _ = index.items(VERSION, ANY_ITEM, 100)
    assert recorded_item(inspection) == f"items/{found.id}"


def test_item_of_a_raw_frame_is_not_known_before_it_is_written() -> None:
    capture = make_capture(bytes(6))
    raw = replace(capture, image=replace(capture.image, layout=RawLayout("Mono8", 3, 2, 0)))
    assert recorded_item(replace(frame(1), capture=raw)) == ""


async def test_recorded_frames_are_found_with_camera_and_time(index: FakeIndex, frames: FrameStore) -> None:
    captured = datetime(2026, 11, 1, tzinfo=UTC)
    async with running(index, frames) as recorder:
        for number in range(30):
            assert recorder.enqueue(frame(number, f"line-{number % 2}", captured, score=number))
        await recorder.drain(5)
    assert (recorder.recorded, recorder.dropped) == (30, 0)
    assert len(index.batches) <= 2
    found, _ = index.items(VERSION, ANY_ITEM, 100)
    assert {(item.camera, item.time, item.source) for item in found} == {
        ("line-0", captured, "camera"),
        ("line-1", captured, "camera"),
    }
    finder = Finder(TwinPoints(index.twin))
    (first, *_) = await finder.search(VERSION, Query(np.eye(4, dtype=np.float32)[1]), 5)
    assert frames.read("tile", first.item.sha256).startswith(b"picture ")


async def test_recorded_frame_has_the_name_that_was_sent(index: FakeIndex, frames: FrameStore) -> None:
    named, plain = frame(1), frame(2)
    named = replace(named, capture=replace(named.capture, name="a b.png"))
    async with running(index, frames) as recorder:
        assert recorder.enqueue(named)
        assert recorder.enqueue(plain)
        await recorder.drain(5)
    found, _ = index.items(VERSION, ANY_ITEM, 100)
    assert sorted(item_to_proto(item).name for item in found) == ["", "a b.png"]
    same_name = parse_where('name = "a b.png"')
    assert [item.name for item in index.items(VERSION, same_name, 100)[0]] == ["a b.png"]


async def test_recorded_frame_keeps_its_regions(index: FakeIndex, frames: FrameStore) -> None:
    outlined = replace(frame(1), regions=(make_region(10, 20, 30, 40), make_region()))
    async with running(index, frames) as recorder:
        recorder.enqueue(outlined)
        recorder.enqueue(frame(2))
        await recorder.drain(5)
    found, _ = index.items(VERSION, ANY_ITEM, 100)
    assert {item.regions for item in found} == {outlined.regions, ()}
    hits = await Finder(TwinPoints(index.twin)).search(VERSION, Query(frame(1).prediction.embedding), 2)
    assert sorted(len(hit_to_proto(hit, b"").regions) for hit in hits) == [0, 2]


async def test_repeated_frame_is_one_item(index: FakeIndex, frames: FrameStore) -> None:
    async with running(index, frames) as recorder:
        for _ in range(3):
            recorder.enqueue(frame(1))
        await recorder.drain(5)
    assert index.count(VERSION) == 1


async def test_queue_is_bounded_while_qdrant_is_unavailable(
    index: FakeIndex, frames: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_QUEUED", 100)
    index.unavailable = True
    async with running(index, frames) as recorder:
        queued = [recorder.enqueue(frame(number)) for number in range(150)]
        assert queued == [True] * 100 + [False] * 50
        await recorder.drain(0.1)
        assert recorder.recorded == 0
        index.unavailable = False
        await recorder.drain(5)
    assert (recorder.recorded, recorder.dropped) == (100, 50)
    assert index.count(VERSION) == 100


async def test_no_frame_is_kept_while_the_disk_is_full(index: FakeIndex, frames: FrameStore) -> None:
    shortages = ["400 MB free", "390 MB free", ""]
    recorder = FrameRecorder(
        index, frames, ImageLimits(), LENIENT, exists, shortage=lambda: shortages.pop(0)
    )
    assert not recorder.enqueue(frame(1))
    note = recorder.refusal
    assert not recorder.enqueue(frame(2))
    assert note == recorder.refusal, "a stream repeats a note only if its text changes"
    assert "not kept, because the disk of the server's store is full; free" in note
    assert recorder.enqueue(frame(3))
    assert recorder.dropped == 2


async def test_queue_is_bounded_in_bytes(
    index: FakeIndex, frames: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_QUEUED_BYTES", 25)
    recorder = FrameRecorder(index, frames, ImageLimits(), LENIENT, exists)
    assert [recorder.enqueue(frame(number)) for number in range(4)] == [
        True,
        True,
        False,
        False,
    ]


async def test_sweep_removes_the_oldest_frames_except_labelled_ones(
    index: FakeIndex, frames: FrameStore
) -> None:
    now = datetime.now(UTC)
    async with running(index, frames, FrameRetention(max_frames=5, max_days=10)) as recorder:
        for number in range(12):
            recorder.enqueue(frame(number, time=now - timedelta(days=number)))
        await recorder.drain(5)
        oldest = hashlib.sha256(b"picture 11").hexdigest()
        (kept,) = [item for item in index.items(VERSION, ANY_ITEM, 100)[0] if item.sha256 == oldest]
        index.label(VERSION, [kept.id], Label.CONFIRMED, "scratch")
        await recorder.sweep()
    left = {item.sha256: item for item in index.items(VERSION, ANY_ITEM, 100)[0]}
    expected = {hashlib.sha256(f"picture {number}".encode()).hexdigest() for number in (0, 1, 2, 3, 4, 11)}
    assert set(left) == expected
    assert all(frames.read("tile", sha256) for sha256 in left)
    assert sum(1 for each in frames._root.rglob("*") if each.is_file()) == 6


async def test_sweep_removes_frames_of_an_earlier_server(index: FakeIndex, frames: FrameStore) -> None:
    captured = datetime.now(UTC) - timedelta(days=3)
    async with running(index, frames, FrameRetention(max_frames=100, max_days=10)) as recorder:
        recorder.enqueue(frame(1, time=captured))
        await recorder.drain(5)
    assert index.count(VERSION) == 1
    await FrameRecorder(
        index, frames, ImageLimits(), FrameRetention(max_frames=100, max_days=2), exists
    ).sweep()
    assert index.count(VERSION) == 0
    assert frames.contents("tile") == []


async def test_sweep_fails_while_qdrant_is_unavailable_and_the_next_one_succeeds(
    index: FakeIndex, frames: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable() -> list[ModelRef]:
        raise Unavailable("unavailable", dependency="qdrant")

    async with running(index, frames, FrameRetention(max_frames=1, max_days=1)) as recorder:
        for number in range(3):
            recorder.enqueue(frame(number))
        await recorder.drain(5)
        with monkeypatch.context() as patch:
            patch.setattr(index, "published", unavailable)
            await recorder.sweep()
        assert index.count(VERSION) == 3
        await recorder.sweep()
    assert index.count(VERSION) == 1


async def test_frames_of_a_removed_model_are_dropped(index: FakeIndex, frames: FrameStore) -> None:
    in_store = {VERSION}
    async with running(index, frames, exists=in_store.__contains__) as recorder:
        recorder.enqueue(frame(1))
        await recorder.drain(5)
        index.drop(VERSION)
        recorder.enqueue(frame(2))
        await recorder.drain(5)
        assert (recorder.recorded, recorder.dropped) == (1, 1)
        in_store.clear()
        recorder.enqueue(frame(3))
        await recorder.drain(5)
    assert (recorder.recorded, recorder.dropped) == (1, 2)
    assert index.versions() == [], "the index is not created again"
    assert len(frames.contents("tile")) == 2, "the third frame is not stored"
