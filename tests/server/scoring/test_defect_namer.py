# SPDX-License-Identifier: Apache-2.0
"""Naming of defects: from labels in memory, read in the background, never at the cost of a verdict."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from uuid import UUID

import numpy as np
import pytest

from blemish_core.platform.errors import NotFound, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.labelled_items import Consensus, LabelledItems
from blemish_server.scoring import defect_namer as module
from blemish_server.scoring.defect_namer import DefectNamer

VERSION = ModelRef("tile", 1)
DEFECT = np.array([1, 0], np.float32)
FOREVER = math.inf
AT_ONCE = -math.inf


def confirmed(name: str, count: int = 3) -> LabelledItems:
    return LabelledItems.of((UUID(int=number), name, DEFECT) for number in range(count))


@dataclass
class FakeLabels:
    """Labels of an index that answers when the test allows, and metrics that record."""

    items: LabelledItems = field(default_factory=lambda: confirmed("crack"))
    error: Exception | None = None
    answers: asyncio.Event = field(default_factory=asyncio.Event)
    known: list[int] = field(default_factory=list)
    """Number of items that each read began with."""
    names: list[tuple[Consensus, float]] = field(default_factory=list)
    reads: list[bool] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def read(self, version: ModelRef, known: LabelledItems) -> LabelledItems:
        self.known.append(len(known.ids))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.answers.wait()
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return self.items

    def named(self, version: ModelRef, consensus: Consensus, seconds: float) -> None:
        self.names.append((consensus, seconds))

    def labels_read(self, version: ModelRef, seconds: float, *, succeeded: bool) -> None:
        self.reads.append(succeeded)


@pytest.fixture
def labels() -> FakeLabels:
    ready = FakeLabels()
    ready.answers.set()
    return ready


@pytest.fixture
async def namer(labels: FakeLabels) -> AsyncIterator[DefectNamer]:
    made = DefectNamer(labels.read, labels)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MIN_INTERVAL_S", 0.0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def test_call_that_may_wait_is_named_by_the_first_read(
    namer: DefectNamer, labels: FakeLabels
) -> None:
    found = await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)
    assert (found.name, found.consensus) == ("crack", Consensus.UNANIMOUS)
    assert labels.reads == [True]


async def test_call_that_may_not_wait_is_answered_at_once(namer: DefectNamer, labels: FakeLabels) -> None:
    labels.answers.clear()
    found = await namer.name(VERSION, DEFECT, may_wait_until=AT_ONCE)
    assert found.consensus is Consensus.UNAVAILABLE
    labels.answers.set()
    await until(lambda: labels.reads == [True])
    assert (await namer.name(VERSION, DEFECT, may_wait_until=AT_ONCE)).name == "crack"
    assert len(labels.known) == 1


async def test_labels_are_read_before_the_first_defect(namer: DefectNamer, labels: FakeLabels) -> None:
    namer.prepare(VERSION)
    await until(lambda: labels.reads == [True])
    assert (await namer.name(VERSION, DEFECT, may_wait_until=AT_ONCE)).name == "crack"


async def test_frozen_index_delays_only_calls_within_a_moment_of_the_first_read(
    namer: DefectNamer, labels: FakeLabels
) -> None:
    labels.answers.clear()
    began_s = time.monotonic()
    for _ in range(50):
        found = await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)
        assert found.consensus is Consensus.UNAVAILABLE
    assert module.WAIT_S <= time.monotonic() - began_s < 2 * module.WAIT_S
    assert len(labels.known) == 1


async def test_call_waits_no_longer_than_it_may(namer: DefectNamer, labels: FakeLabels) -> None:
    labels.answers.clear()
    began_s = time.monotonic()
    await namer.name(VERSION, DEFECT, may_wait_until=began_s + 0.02)
    assert 0.02 <= time.monotonic() - began_s < module.WAIT_S


async def test_unavailable_index_is_tried_again_and_then_delays_no_call(
    namer: DefectNamer, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REFRESH_EVERY_S", 0.0)
    labels.error = Unavailable("away", dependency="qdrant")
    await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)
    assert labels.reads == [False]
    labels.answers.clear()
    began_s = time.monotonic()
    assert (await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)).consensus is Consensus.UNAVAILABLE
    assert time.monotonic() - began_s < module.WAIT_S / 2
    labels.error = None
    labels.answers.set()
    await until(lambda: labels.reads == [False, True])
    assert (await namer.name(VERSION, DEFECT, may_wait_until=AT_ONCE)).name == "crack"


async def test_last_labels_serve_while_the_index_is_away(
    namer: DefectNamer, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)
    monkeypatch.setattr(module, "_REFRESH_EVERY_S", 0.0)
    labels.error = Unavailable("away", dependency="qdrant")
    for _ in range(3):
        assert (await namer.name(VERSION, DEFECT, may_wait_until=AT_ONCE)).name == "crack"
        await asyncio.sleep(0.01)
    assert labels.reads[0]
    assert not any(labels.reads[1:])
    assert len(labels.reads) > 1


async def test_bug_in_a_read_is_a_failed_read(namer: DefectNamer, labels: FakeLabels) -> None:
    labels.error = RuntimeError("bug")
    found = await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)
    assert found.consensus is Consensus.UNAVAILABLE
    assert labels.reads == [False]


async def test_version_without_an_index_has_too_few_labels(namer: DefectNamer, labels: FakeLabels) -> None:
    labels.error = NotFound("tile/1 has no index yet")
    found = await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)
    assert found.consensus is Consensus.TOO_FEW_LABELS


async def test_changed_label_takes_effect_at_once(namer: DefectNamer, labels: FakeLabels) -> None:
    assert (await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)).name == "crack"
    labels.items = confirmed("dent")
    assert (await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)).name == "crack"
    namer.expire(VERSION)
    assert (await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)).name == "dent"
    assert labels.known == [0, 3], "embeddings are read once"


async def test_label_that_changes_during_a_read_is_read_after_it(
    namer: DefectNamer, labels: FakeLabels
) -> None:
    labels.answers.clear()
    namer.prepare(VERSION)
    await until(lambda: labels.running == 1)
    for _ in range(10):
        namer.expire(VERSION)
    labels.answers.set()
    await until(lambda: len(labels.reads) == 2)
    await asyncio.sleep(0.01)
    assert labels.reads == [True, True]


async def test_change_of_a_version_without_requests_is_not_read(
    namer: DefectNamer, labels: FakeLabels
) -> None:
    namer.expire(VERSION)
    await asyncio.sleep(0.01)
    assert labels.known == []


async def test_labels_are_read_again_after_a_pause_before_a_call_is_named(
    namer: DefectNamer, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)
    for name in ("_REFRESH_EVERY_S", "_OLD_S", "_DISCARD_S"):
        monkeypatch.setattr(module, name, 0.0)
    labels.items = confirmed("dent")
    assert (await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)).name == "dent"
    assert labels.known == [0, 0], "the index may have been replaced"


async def test_few_versions_are_read_at_once(namer: DefectNamer, labels: FakeLabels) -> None:
    labels.answers.clear()
    versions = [ModelRef("tile", number) for number in range(1, 11)]
    for version in versions:
        namer.prepare(version)
    await asyncio.sleep(0.01)
    labels.answers.set()
    await until(lambda: len(labels.reads) == len(versions))
    assert labels.most_running == 2


async def test_many_labels_are_compared_in_a_thread_within_a_limit(
    namer: DefectNamer, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_INLINE", 0)
    assert (await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)).name == "crack"
    monkeypatch.setattr(module, "_MAX_COMPARISON_S", 0.01)
    monkeypatch.setattr(LabelledItems, "classify", lambda items, embedding: time.sleep(0.2))
    began_s = time.monotonic()
    found = await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)
    assert found.consensus is Consensus.UNAVAILABLE
    assert time.monotonic() - began_s < 0.15


async def test_bug_in_a_comparison_does_not_cost_the_verdict(
    namer: DefectNamer, labels: FakeLabels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(items: LabelledItems, embedding: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(LabelledItems, "classify", fail)
    found = await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)
    assert found.consensus is Consensus.UNAVAILABLE


async def test_names_and_the_time_that_they_take_are_counted(
    namer: DefectNamer, labels: FakeLabels
) -> None:
    await namer.name(VERSION, DEFECT, may_wait_until=FOREVER)
    ((consensus, seconds),) = labels.names
    assert consensus is Consensus.UNANIMOUS
    assert 0 < seconds < module.WAIT_S
