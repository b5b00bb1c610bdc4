# SPDX-License-Identifier: Apache-2.0

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blemish_core.imaging.image_input import ImageInput
from blemish_core.platform.errors import Overloaded
from blemish_core.platform.names import ModelRef
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.scorer import Scorer, Terms


class Busy:
    """Stands for a model at which images wait for ever."""

    def __init__(self, max_waiting_bytes: int) -> None:
        self._inspector = Scorer(cast(ModelCache, self), max_waiting_bytes)
        self._tasks: list[asyncio.Task[object]] = []
        self.callers: list[Hashable] = []

    @asynccontextmanager
    async def use(self, ref: ModelRef) -> AsyncIterator[Any]:
        yield SimpleNamespace(batcher=self)

    async def submit(self, item: object, *, caller: Hashable, **terms: object) -> None:
        self.callers.append(caller)
        await asyncio.Event().wait()

    async def wait(self, size: int, caller: str) -> asyncio.Task[object]:
        """Let an image of so many bytes wait, and return its call.

        Raises:
            Overloaded: if it was refused.
        """
        call = self._inspector.inspect(ImageInput(bytes(size)), ModelRef("m"), Terms(caller))
        task: asyncio.Task[object] = asyncio.create_task(call)
        await asyncio.sleep(0)
        if task.done():
            task.result()
        self._tasks.append(task)
        return task

    async def leave(self, task: "asyncio.Task[object]") -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        for task in self._tasks:
            await self.leave(task)


@pytest.fixture
async def busy() -> AsyncIterator[Busy]:
    made = Busy(900)
    yield made
    await made.close()


async def test_images_wait_as_those_of_their_caller(busy: Busy) -> None:
    await busy.wait(1, "left")
    await busy.wait(1, "right")
    assert busy.callers == ["left", "right"]


async def test_who_fills_the_memory_leaves_a_ninth_for_others(busy: Busy) -> None:
    held = [await busy.wait(50, "much") for _ in range(16)]
    with pytest.raises(Overloaded, match="BLEMISH_MAX_WAITING_BYTES"):
        await busy.wait(50, "much")
    await busy.wait(50, "little")
    with pytest.raises(Overloaded):  # here it ends for him too
        await busy.wait(51, "some")
    await busy.leave(held.pop())
    await busy.wait(50, "some")
    await busy.wait(50, "little")


async def test_one_image_may_take_all_of_it(busy: Busy) -> None:
    task = await busy.wait(900, "large")
    with pytest.raises(Overloaded):
        await busy.wait(1, "small")
    await busy.leave(task)
    await busy.wait(900, "other")


async def test_what_is_more_than_all_of_it_is_refused(busy: Busy) -> None:
    with pytest.raises(Overloaded):
        await busy.wait(901, "large")


async def test_nothing_is_kept_of_callers_who_left(busy: Busy) -> None:
    for number in range(10):
        await busy.leave(await busy.wait(1, f"caller {number}"))
    assert not busy._inspector._waiting_bytes
