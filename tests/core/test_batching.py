# SPDX-License-Identifier: Apache-2.0
import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from blemish_core.batching import Batcher, BatchingPolicy
from blemish_core.errors import Overloaded

PATIENT = BatchingPolicy(max_batch_size=4, max_wait_s=60)
PROMPT = BatchingPolicy(max_batch_size=4, max_wait_s=0.001)


class Doubler:
    """Doubles its items and remembers the batches it was given."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        if -1 in items:
            raise ValueError("cannot double -1")
        return [2 * item for item in items if item != 0]


@asynccontextmanager
async def running(batcher: Batcher[int, int]) -> AsyncIterator[Batcher[int, int]]:
    loop = asyncio.create_task(batcher.run())
    yield batcher
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_concurrent_items_share_a_batch_and_keep_their_answers() -> None:
    double = Doubler()
    async with running(Batcher(double, PATIENT)) as batcher:
        answers = await asyncio.gather(*(batcher.submit(item) for item in [1, 2, 3, 4]))
    assert [answer.result for answer in answers] == [2, 4, 6, 8]
    assert double.batches == [[1, 2, 3, 4]]


async def test_a_batch_is_never_larger_than_the_policy_allows() -> None:
    double = Doubler()
    async with running(Batcher(double, PROMPT)) as batcher:
        await asyncio.gather(*(batcher.submit(item) for item in range(1, 11)))
    assert [len(batch) for batch in double.batches] == [4, 4, 2]


async def test_a_lone_item_is_served_after_the_wait() -> None:
    async with running(Batcher(Doubler(), PROMPT)) as batcher:
        assert (await batcher.submit(21)).result == 42


async def test_a_failing_batch_fails_its_callers_and_not_the_next_batch() -> None:
    async with running(Batcher(Doubler(), PROMPT)) as batcher:
        with pytest.raises(ValueError, match="cannot double"):
            await batcher.submit(-1)
        assert (await batcher.submit(3)).result == 6


async def test_a_wrong_number_of_answers_is_reported_as_a_bug() -> None:
    async with running(Batcher(Doubler(), PROMPT)) as batcher:
        with pytest.raises(RuntimeError, match="this is a bug"):
            await batcher.submit(0)


async def test_nothing_is_computed_for_a_caller_who_left() -> None:
    double = Doubler()
    batcher = Batcher(double, PROMPT)
    left = asyncio.create_task(batcher.submit(1))
    stayed = asyncio.create_task(batcher.submit(2))
    await asyncio.sleep(0)
    left.cancel()
    async with running(batcher):
        assert (await stayed).result == 4
    assert double.batches == [[2]]


async def test_a_full_queue_refuses() -> None:
    batcher = Batcher(Doubler(), BatchingPolicy(max_queued=1))
    waiting = asyncio.create_task(batcher.submit(1))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await batcher.submit(2)
    waiting.cancel()


async def test_stopping_cancels_everyone_still_waiting() -> None:
    async with running(Batcher(Doubler(), PATIENT)) as batcher:
        waiting = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_answer_tells_where_its_time_went() -> None:
    async with running(Batcher(Doubler(), BatchingPolicy(max_batch_size=2, max_wait_s=0.05))) as batcher:
        answer = await batcher.submit(1)
    assert answer.queued_s >= 0.05
    assert answer.computed_s > 0


async def test_lanes_run_at_once_and_keep_no_more_than_their_number_busy() -> None:
    lock, busy, most = threading.Lock(), 0, 0
    both = threading.Barrier(2, timeout=10)

    def work(items: Sequence[int]) -> list[int]:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        both.wait()  # passes two by two
        with lock:
            busy -= 1
        return [2 * item for item in items]

    async with running(Batcher(work, BatchingPolicy(max_batch_size=1, lanes=2))) as batcher:
        answers = await asyncio.gather(*(batcher.submit(item) for item in range(10)))
    assert [answer.result for answer in answers] == [2 * item for item in range(10)]
    assert most == 2
