# SPDX-License-Identifier: Apache-2.0
"""Frames on their way to the index: bounded, in batches, patient with Qdrant, swept."""

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.support.qdrant_twin import TwinPoints, in_memory_qdrant

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput
from blemish_core.platform.errors import Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.conditions import ANY_ITEM
from blemish_core.search.finder import Finder
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.item import Item, Label
from blemish_core.search.query import Query, Vector
from blemish_core.search.search_index import SearchIndex
from blemish_server.scoring import frame_recorder as keeping
from blemish_server.scoring.frame_recorder import FrameRecorder, Retention

VERSION = ModelRef("tile", 1)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]


class Index(SearchIndex):
    """The in-memory one, which may be away and counts what it is told at once."""

    def __init__(self) -> None:
        self.twin = in_memory_qdrant()
        super().__init__(self.twin)
        self.away = False
        self.batches: list[int] = []

    def put(self, version: ModelRef, items: Sequence[Item], vectors: Vector, job: str = "") -> None:
        if self.away:
            raise Unavailable("away", dependency="qdrant")
        self.batches.append(len(items))
        super().put(version, items, vectors, job)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_GATHER_S", 0.02)
    monkeypatch.setattr(keeping, "_RETRY_S", 0.02)


@pytest.fixture
def index() -> Iterator[Index]:
    yield Index()


@pytest.fixture
def frames(tmp_path: Path) -> FrameStore:
    return FrameStore(tmp_path)


def inspected(score: float = 2.0) -> Any:
    judge = SimpleNamespace(p_value=lambda score: 0.1, anomalous=lambda score: score > 1)
    return SimpleNamespace(
        manifest=SimpleNamespace(model="tile", version=1),
        calibration=SimpleNamespace(calibration=judge),
        outcome=SimpleNamespace(score=score, embedding=np.eye(4, dtype=np.float32)[int(score) % 4]),
    )


def there(version: ModelRef) -> bool:
    return version == VERSION


def picture(number: int) -> ImageInput:
    return ImageInput(f"picture {number}".encode())


@asynccontextmanager
async def running(index: SearchIndex, frames: FrameStore, retention: Retention | None = None) -> Any:
    keeper = FrameRecorder(index, frames, ImageLimits(), retention or Retention(1000, 90), there)
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_frames_are_found_with_their_camera_and_time(index: Index, frames: FrameStore) -> None:
    taken = datetime(2026, 11, 1, tzinfo=UTC)
    async with running(index, frames) as keeper:
        for number in range(30):
            assert keeper.offer(picture(number), inspected(number), f"line-{number % 2}", taken)
        await keeper.drain(5)
    assert (keeper.kept, keeper.dropped) == (30, 0)
    assert len(index.batches) <= 2
    found, _ = index.items(VERSION, ANY_ITEM, 100)
    assert {(item.camera, item.time, item.source) for item in found} == {
        ("line-0", taken, "camera"),
        ("line-1", taken, "camera"),
    }
    finder = Finder(TwinPoints(index.twin))
    (first, *_) = await finder.search(VERSION, Query(np.eye(4, dtype=np.float32)[1]), 5)
    assert frames.read("tile", first.item.sha256).startswith(b"picture ")


async def test_the_same_frame_again_is_the_same_item(index: Index, frames: FrameStore) -> None:
    async with running(index, frames) as keeper:
        for _ in range(3):
            keeper.offer(picture(1), inspected(), "line", None)
        await keeper.drain(5)
    assert index.count(VERSION) == 1


async def test_nothing_waits_for_qdrant_and_what_waits_is_bounded(
    index: Index, frames: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_MOST_WAITING", 100)
    index.away = True
    async with running(index, frames) as keeper:
        taken = [keeper.offer(picture(number), inspected(), "line", None) for number in range(150)]
        assert taken == [True] * 100 + [False] * 50
        await keeper.drain(0.1)
        assert keeper.kept == 0
        index.away = False
        await keeper.drain(5)
    assert (keeper.kept, keeper.dropped) == (100, 50)
    assert index.count(VERSION) == 100


async def test_bytes_are_bounded_too(
    index: Index, frames: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_MOST_BYTES", 25)
    keeper = FrameRecorder(index, frames, ImageLimits(), Retention(1000, 90), there)
    assert [keeper.offer(picture(number), inspected(), "line", None) for number in range(4)] == [
        True,
        True,
        False,
        False,
    ]


async def test_the_oldest_go_and_labelled_ones_stay(index: Index, frames: FrameStore) -> None:
    now = datetime.now(UTC)
    async with running(index, frames, Retention(frames=5, days=10)) as keeper:
        for number in range(12):
            keeper.offer(picture(number), inspected(), "line", now - timedelta(days=number))
        await keeper.drain(5)
        oldest = hashlib.sha256(b"picture 11").hexdigest()
        (kept,) = [item for item in index.items(VERSION, ANY_ITEM, 100)[0] if item.sha256 == oldest]
        index.label(VERSION, [kept.id], Label.CONFIRMED, "scratch")
        await keeper.sweep()
    left = {item.sha256: item for item in index.items(VERSION, ANY_ITEM, 100)[0]}
    expected = {hashlib.sha256(f"picture {number}".encode()).hexdigest() for number in (0, 1, 2, 3, 4, 11)}
    assert set(left) == expected
    assert all(frames.read("tile", sha256) for sha256 in left)
    assert sum(1 for each in frames._root.rglob("*") if each.is_file()) == 6


async def test_frames_that_an_earlier_server_kept_go_too(index: Index, frames: FrameStore) -> None:
    taken = datetime.now(UTC) - timedelta(days=3)
    async with running(index, frames, Retention(frames=100, days=10)) as keeper:
        keeper.offer(picture(1), inspected(), "line", taken)
        await keeper.drain(5)
    assert index.count(VERSION) == 1
    await FrameRecorder(index, frames, ImageLimits(), Retention(frames=100, days=2), there).sweep()
    assert index.count(VERSION) == 0
    assert frames.contents("tile") == []


async def test_a_sweep_while_qdrant_is_away_is_left_for_the_next(
    index: Index, frames: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> list[ModelRef]:
        raise Unavailable("away", dependency="qdrant")

    monkeypatch.setattr(index, "published", away)
    await FrameRecorder(index, frames, ImageLimits(), Retention(frames=1, days=1), there).sweep()


async def test_frames_of_a_model_that_was_removed_meanwhile_are_not_kept(
    index: Index, frames: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is its index made again, also where it goes between the look and the writing."""
    async with running(index, frames) as keeper:
        keeper.offer(picture(1), inspected(), "line", None)
        await keeper.drain(5)
        index.drop(VERSION)
        keeper.offer(picture(2), inspected(), "line", None)
        await keeper.drain(5)
        assert (keeper.kept, keeper.dropped) == (1, 1)
        monkeypatch.setattr(keeper, "_is_there", lambda version: False)
        keeper.offer(picture(3), inspected(), "line", None)
        await keeper.drain(5)
    assert (keeper.kept, keeper.dropped) == (1, 2)
    assert index.versions() == []
    assert len(frames.contents("tile")) == 2, "not the third"
