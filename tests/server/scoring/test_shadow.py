# SPDX-License-Identifier: Apache-2.0
"""A version that judges beside the one in production: what it is shown, and what is made of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.core.models.test_store import publish

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import Corrupt
from blemish_core.platform.names import ModelRef
from blemish_server.scoring import shadow as shadowing
from blemish_server.scoring.batcher import Priority
from blemish_server.scoring.scorer import Terms
from blemish_server.scoring.shadow import Outcome, Shadow

ONE, TWO = ModelRef("m", 1), ModelRef("m", 2)
TAKEN = datetime(2026, 11, 30, tzinfo=UTC)


def judged(version: ModelRef, score: float, threshold: float = 1.0) -> Any:
    judge = SimpleNamespace(threshold=threshold, anomalous=lambda score: score > threshold)
    return SimpleNamespace(
        manifest=SimpleNamespace(model=version.model, version=version.version),
        outcome=SimpleNamespace(score=score),
        calibration=SimpleNamespace(calibration=judge),
        decode_s=0.001,
        inference_s=0.001,
    )


def shown(score: str) -> tuple[ImageInput, None]:
    """A picture by which the shadow finds this score."""
    return ImageInput(score.encode()), None


class Line:
    """Stands for inspector, loaded models and keeper; the shadow finds a score in the picture's bytes."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self.asked: list[tuple[ModelRef, Terms]] = []
        self.kept: list[bytes] = []
        self.room = self.roomy = True
        self.corrupt = False
        parts: Any = self
        self.shadow = Shadow(store, parts, parts, parts, ImageLimits())

    async def fits(self, fixed: ModelRef) -> bool:
        return self.roomy

    async def inspect(self, picture: ImageInput, ref: ModelRef, terms: Terms) -> Any:
        self.asked.append((ref, terms))
        if self.corrupt:
            raise Corrupt("changed")
        return judged(ref, float(picture.data))

    def offer(self, picture: ImageInput, done: Any, camera: str, taken: datetime | None) -> bool:
        if self.room:
            self.kept.append(picture.data)
        return self.room

    async def see(self, score: float, by_shadow: float, camera: str = "left") -> None:
        """Have production judge an image, and the shadow after it."""
        before = len(self.asked)
        self.shadow.offer(lambda: (ImageInput(str(by_shadow).encode()), TAKEN), judged(ONE, score), camera)
        for _ in range(200):
            await asyncio.sleep(0.005)
            if len(self.asked) > before:
                break
        await asyncio.sleep(0.02)

    async def until(self, *, compared: bool) -> None:
        for _ in range(400):
            if bool(self.shadow.comparisons) == compared:
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"comparisons: {self.shadow.comparisons}")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """Two versions, the first in production and the second its shadow."""
    store = ModelStore(tmp_path)
    for job in "ab":
        publish(store, "m", job)
    store.promote(ONE)
    store.set_shadow(TWO, True)
    return store


@pytest.fixture
async def line(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Line]:
    monkeypatch.setattr(shadowing, "_LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(shadowing, "_REST", 0.0)
    made = Line(store)
    task = asyncio.create_task(made.shadow.run())
    await made.until(compared=True)
    yield made
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_verdicts_are_compared_and_disagreements_kept(line: Line) -> None:
    for score, by_shadow in ((0.5, 0.6), (2.0, 3.0), (0.5, 1.5), (2.0, 0.5), (0.4, 0.4)):
        await line.see(score, by_shadow)
    (comparison,) = line.shadow.comparisons
    assert (comparison.production, comparison.shadow, comparison.failed) == (ONE, TWO, 0)
    assert comparison.outcomes == {
        Outcome.BOTH_NORMAL: 2,
        Outcome.BOTH_ANOMALOUS: 1,
        Outcome.ONLY_SHADOW: 1,
        Outcome.ONLY_PRODUCTION: 1,
    }
    newest, before = comparison.disagreements
    assert (newest.production_score, newest.shadow_score) == (2.0, 0.5)
    assert (before.production_score, before.shadow_score, before.shadow_threshold) == (0.5, 1.5, 1.0)
    assert (before.camera, before.time) == ("left", TAKEN)
    assert newest.item.startswith("items/")
    assert newest.item != before.item
    assert line.kept == [b"1.5", b"0.5"]
    manifest: Any = SimpleNamespace(model="m", version=2)
    assert line.shadow.of(manifest) is comparison
    manifest.version = 1
    assert line.shadow.of(manifest) is None


async def test_it_waits_for_everything_else(line: Line) -> None:
    await line.see(0.5, 0.5)
    ((ref, terms),) = line.asked
    assert (ref, terms.priority) == (TWO, Priority.BACKFILL)


async def test_what_could_not_be_kept_has_no_item(line: Line) -> None:
    line.room = False
    await line.see(0.5, 1.5)
    assert line.shadow.comparisons[0].disagreements[0].item == ""


async def test_of_many_images_the_newest_is_looked_at(line: Line) -> None:
    for number in range(5):
        line.shadow.offer(partial(shown, f"0.{number}"), judged(ONE, 0.5), "")
    await line.see(0.5, 0.7)
    assert len(line.asked) == 1
    assert line.shadow.comparisons[0].outcomes.total() == 1


async def test_other_versions_and_models_are_not_its_business(line: Line) -> None:
    for version in (TWO, ModelRef("m", 3), ModelRef("other", 1)):
        line.shadow.offer(partial(shown, "0.5"), judged(version, 0.5), "")
    await asyncio.sleep(0.05)
    assert line.asked == []


async def test_images_that_it_cannot_judge_are_counted(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.corrupt = True
    await line.see(0.5, 0.5)
    line.corrupt, line.roomy = False, False
    line.shadow.offer(partial(shown, "0.5"), judged(ONE, 0.5), "")
    await asyncio.sleep(0.1)
    (comparison,) = line.shadow.comparisons
    assert (comparison.failed, comparison.outcomes.total(), len(line.asked)) == (2, 0, 1)


async def test_it_ends_with_a_promotion_and_begins_anew_beside_another(line: Line) -> None:
    await line.see(0.5, 0.5)
    three = ModelRef("m", publish(line.store, "m", "c").version)
    line.store.set_shadow(three, True)
    for _ in range(400):
        if line.shadow.comparisons[0].shadow == three:
            break
        await asyncio.sleep(0.005)
    assert line.shadow.comparisons[0].outcomes.total() == 0
    line.store.promote(three)
    await line.until(compared=False)
    line.shadow.offer(partial(shown, "0.5"), judged(ONE, 0.5), "")
    await asyncio.sleep(0.05)
    assert len(line.asked) == 1


async def test_it_rests_nine_times_as_long_as_it_works(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    asleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await asleep(0)

    monkeypatch.setattr(shadowing, "_REST", 9.0)
    monkeypatch.setattr(asyncio, "sleep", noted)
    line.shadow.offer(partial(shown, "0.5"), judged(ONE, 0.5), "")
    for _ in range(100):
        await asleep(0.005)
        if line.asked:
            break
    await asleep(0.02)
    monkeypatch.undo()
    assert max(slept) == pytest.approx(9 * 0.002)
