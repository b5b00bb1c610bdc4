# SPDX-License-Identifier: Apache-2.0
"""A shadow version: the images that it scores, and its comparison with the version in production."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest
from tests.core.models.test_store import publish
from tests.support.inspections import make_capture, make_inspection, make_manifest
from tests.support.scorers import FakeScorer

from blemish_core.imaging.decode import ImageLimits
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import Corrupt
from blemish_core.platform.names import ModelRef
from blemish_server.scoring import shadow as module
from blemish_server.scoring.batcher import Priority, Timings
from blemish_server.scoring.frame_recorder import FrameRecorder
from blemish_server.scoring.inspection import Inspection
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.shadow import Agreement, Shadow, ShadowComparison

ONE, TWO = ModelRef("m", 1), ModelRef("m", 2)
CAPTURED = datetime(2026, 11, 30, tzinfo=UTC)


class FakeModels:
    """A model cache that has room for the shadow, or not."""

    has_room = True

    async def fits(self, fixed: ModelRef) -> bool:
        return self.has_room


class FakeRecorder:
    """A recorder that keeps the inspections, unless it is full."""

    def __init__(self) -> None:
        self.recorded: list[Inspection] = []
        self.is_full = False

    def enqueue(self, inspection: Inspection) -> bool:
        if not self.is_full:
            self.recorded.append(inspection)
        return not self.is_full


class Setup:
    """A shadow with stand-ins for the parts that it uses."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self.scorer = FakeScorer()
        self.models = FakeModels()
        self.recorder = FakeRecorder()
        self.shadow = Shadow(
            store,
            cast(ModelCache, self.models),
            self.scorer.as_scorer(),
            cast(FrameRecorder, self.recorder),
            ImageLimits(),
        )

    @property
    def comparison(self) -> ShadowComparison:
        (comparison,) = self.shadow.comparisons
        return comparison

    def enqueue(
        self, score: float, by_shadow: float, version: ModelRef = ONE, time: datetime | None = CAPTURED
    ) -> None:
        """Queue an image that was scored, and that the shadow will give another score."""
        capture = make_capture(str(by_shadow).encode(), camera="left", time=time)
        self.shadow.enqueue(make_inspection(score, version=version, capture=capture))

    async def compare(self, score: float, by_shadow: float, time: datetime | None = CAPTURED) -> None:
        """Queue an image and wait until the shadow has scored it."""
        before = self.comparison.agreements.total() + self.comparison.failed
        self.enqueue(score, by_shadow, time=time)
        await until(lambda: self.comparison.agreements.total() + self.comparison.failed > before)
        await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """Make a store with two versions, the first in production and the second its shadow."""
    store = ModelStore(tmp_path)
    for job in "ab":
        publish(store, "m", job)
    store.promote(ONE)
    store.set_shadow(TWO, True)
    return store


@pytest.fixture
async def setup(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    monkeypatch.setattr(module, "_REFRESH_EVERY_S", 0.02)
    monkeypatch.setattr(module, "_PAUSE_FACTOR", 0.0)
    setup = Setup(store)
    task = asyncio.create_task(setup.shadow.run())
    await until(lambda: bool(setup.shadow.comparisons))
    yield setup
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_verdicts_are_compared_and_disagreements_recorded(setup: Setup) -> None:
    for score, by_shadow in ((0.5, 0.6), (2.0, 3.0), (0.5, 1.5), (2.0, 0.5), (0.4, 0.4)):
        await setup.compare(score, by_shadow)
    comparison = setup.comparison
    assert (comparison.production, comparison.shadow, comparison.failed) == (ONE, TWO, 0)
    assert comparison.agreements == {
        Agreement.BOTH_NORMAL: 2,
        Agreement.BOTH_ANOMALOUS: 1,
        Agreement.ONLY_SHADOW: 1,
        Agreement.ONLY_PRODUCTION: 1,
    }
    newest, before = comparison.disagreements
    assert (newest.production_score, newest.shadow_score) == (2.0, 0.5)
    assert (before.production_score, before.shadow_score, before.shadow_threshold) == (0.5, 1.5, 1.0)
    assert (before.camera, before.time) == ("left", CAPTURED)
    assert newest.item.startswith("items/")
    assert newest.item != before.item
    assert [(each.capture.image.data, each.score) for each in setup.recorder.recorded] == [
        (b"1.5", 0.5),
        (b"0.5", 2.0),
    ]
    assert setup.shadow.comparison_of(make_manifest("m", 2)) is comparison
    assert setup.shadow.comparison_of(make_manifest("m", 1)) is None


async def test_images_are_queued_at_the_lowest_priority(setup: Setup) -> None:
    await setup.compare(0.5, 0.5)
    (request,) = setup.scorer.requests
    assert (request.model, request.queue.priority) == (TWO, Priority.BACKFILL)


async def test_unrecorded_disagreement_has_no_item(setup: Setup) -> None:
    setup.recorder.is_full = True
    await setup.compare(0.5, 1.5)
    assert setup.comparison.disagreements[0].item == ""


async def test_image_without_capture_time_gets_the_time_of_its_answer(setup: Setup) -> None:
    began = datetime.now(UTC)
    await setup.compare(0.5, 1.5, time=None)
    (disagreement,) = setup.comparison.disagreements
    assert began <= disagreement.time <= datetime.now(UTC)
    assert setup.recorder.recorded[0].capture.time == disagreement.time


async def test_only_the_newest_queued_image_is_scored(setup: Setup) -> None:
    for number in range(5):
        setup.enqueue(0.5, 0.1 * number)
    await setup.compare(0.5, 0.7)
    assert [request.claim().image.data for request in setup.scorer.requests] == [b"0.7"]
    assert setup.comparison.agreements.total() == 1


async def test_other_versions_and_models_are_ignored(setup: Setup) -> None:
    for version in (TWO, ModelRef("m", 3), ModelRef("other", 1)):
        setup.enqueue(0.5, 0.5, version)
    await asyncio.sleep(0.05)
    assert setup.scorer.requests == []


async def test_images_that_the_shadow_cannot_score_are_counted(setup: Setup) -> None:
    setup.scorer.error = Corrupt("changed")
    await setup.compare(0.5, 0.5)
    setup.scorer.error, setup.models.has_room = None, False
    await setup.compare(0.5, 0.5)
    assert (setup.comparison.failed, setup.comparison.agreements.total()) == (2, 0)
    assert len(setup.scorer.requests) == 1


async def test_comparison_ends_with_a_promotion_and_restarts_for_a_new_shadow(setup: Setup) -> None:
    await setup.compare(0.5, 0.5)
    three = ModelRef("m", publish(setup.store, "m", "c").version)
    setup.store.set_shadow(three, True)
    await until(lambda: setup.comparison.shadow == three)
    assert setup.comparison.agreements.total() == 0
    setup.store.promote(three)
    await until(lambda: not setup.shadow.comparisons)
    setup.enqueue(0.5, 0.5)
    await asyncio.sleep(0.05)
    assert len(setup.scorer.requests) == 1


async def test_shadow_pauses_nine_times_as_long_as_it_works(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def record(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(module, "_PAUSE_FACTOR", 9.0)
    setup.scorer.timings = Timings(queue_s=5.0, decode_s=0.001, inference_s=0.001)
    monkeypatch.setattr(asyncio, "sleep", record)
    setup.enqueue(0.5, 0.5)
    for _ in range(100):
        await sleep(0.005)
        if setup.scorer.requests:
            break
    await sleep(0.02)
    monkeypatch.undo()
    assert max(slept) == pytest.approx(9 * 0.002)
