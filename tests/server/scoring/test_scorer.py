# SPDX-License-Identifier: Apache-2.0
"""Admission of images by the bytes in progress."""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from blemish_core.imaging.image_input import ImageInput
from blemish_core.platform.errors import Overloaded
from blemish_core.platform.names import ModelRef
from blemish_server.scoring.inspection import QueueOptions, ScoringRequest
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.scorer import Scorer


class StuckModel:
    """A model, and the cache that holds it, whose queue never moves."""

    def __init__(self) -> None:
        self.batcher = self
        self.ref = ModelRef("tile", 1)
        self.callers: list[Hashable] = []

    @asynccontextmanager
    async def use(self, ref: ModelRef) -> "AsyncIterator[StuckModel]":
        yield self

    async def submit(self, item: object, *, caller: Hashable, **options: object) -> None:
        self.callers.append(caller)
        await asyncio.Event().wait()


class Clients:
    """Clients that send images to a stuck model."""

    def __init__(self, max_waiting_bytes: int) -> None:
        self.model = StuckModel()
        self.scorer = Scorer(cast(ModelCache, self.model), max_waiting_bytes)
        self._tasks: list[asyncio.Task[object]] = []

    async def send(self, size_bytes: int, caller: str) -> "asyncio.Task[object]":
        """Send an image and return the call.

        Raises:
            Overloaded: if it was rejected.
        """
        image = ImageInput(bytes(size_bytes))
        call = self.scorer.score(ScoringRequest.of(image, ModelRef("m"), QueueOptions(caller)))
        task: asyncio.Task[object] = asyncio.create_task(call)
        await asyncio.sleep(0)
        if task.done():
            task.result()
        self._tasks.append(task)
        return task

    async def cancel(self, task: "asyncio.Task[object]") -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        for task in self._tasks:
            await self.cancel(task)


@pytest.fixture
async def clients() -> AsyncIterator[Clients]:
    """Clients of a server with room for 900 bytes."""
    clients = Clients(900)
    yield clients
    await clients.close()


async def test_images_are_queued_under_their_caller(clients: Clients) -> None:
    await clients.send(1, "left")
    await clients.send(1, "right")
    assert clients.model.callers == ["left", "right"]


async def test_caller_that_fills_the_memory_leaves_a_ninth_for_others(clients: Clients) -> None:
    calls = [await clients.send(50, "greedy") for _ in range(16)]
    with pytest.raises(Overloaded, match="BLEMISH_MAX_WAITING_BYTES"):
        await clients.send(50, "greedy")
    await clients.send(50, "modest")
    with pytest.raises(Overloaded):  # more than is free
        await clients.send(51, "other")
    await clients.cancel(calls.pop())
    await clients.send(50, "other")
    await clients.send(50, "modest")


async def test_one_image_may_use_all_the_memory(clients: Clients) -> None:
    large = await clients.send(900, "large")
    with pytest.raises(Overloaded):
        await clients.send(1, "small")
    await clients.cancel(large)
    await clients.send(900, "other")
    assert clients.scorer.waiting_bytes == 900


async def test_image_larger_than_the_memory_is_rejected(clients: Clients) -> None:
    with pytest.raises(Overloaded):
        await clients.send(901, "large")


async def test_callers_that_left_take_no_memory(clients: Clients) -> None:
    await clients.send(1, "patient")
    for number in range(10):
        await clients.cancel(await clients.send(1, f"caller {number}"))
    assert (clients.scorer.callers, clients.scorer.waiting_bytes) == (1, 1)
