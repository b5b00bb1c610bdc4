# SPDX-License-Identifier: Apache-2.0
"""Items between the scoring path and a background task."""

import asyncio

from blemish_server.scoring.background_queue import BackgroundQueue


def test_items_come_out_oldest_first() -> None:
    queue: BackgroundQueue[int] = BackgroundQueue()
    assert all(queue.put(number) for number in range(5))
    assert (queue.take(2), queue.take(), queue.take()) == ([0, 1], [2, 3, 4], [])


def test_full_queue_rejects_items_until_some_are_taken() -> None:
    queue: BackgroundQueue[int] = BackgroundQueue(max_items=2)
    assert [queue.put(number) for number in range(3)] == [True, True, False]
    queue.take(1)
    assert queue.put(3)
    assert queue.take() == [1, 3]


def test_bytes_are_bounded() -> None:
    queue: BackgroundQueue[int] = BackgroundQueue(max_bytes=25)
    assert [queue.put(number, size_bytes=10) for number in range(3)] == [True, True, False]
    queue.take(1)
    assert queue.put(3, size_bytes=15)
    assert not queue.put(4, size_bytes=1)


def test_item_replaces_an_older_one_with_its_key() -> None:
    queue: BackgroundQueue[int] = BackgroundQueue(max_bytes=20)
    assert queue.put(1, key="tile", size_bytes=10)
    assert queue.put(2, key="tile", size_bytes=10)
    assert queue.put(3, key="wood", size_bytes=10)
    assert queue.take() == [2, 3]


async def test_wait_returns_once_an_item_is_added() -> None:
    queue: BackgroundQueue[int] = BackgroundQueue()
    waiting = asyncio.create_task(queue.wait(10))
    await asyncio.sleep(0)
    assert not waiting.done()
    queue.put(1)
    await asyncio.wait_for(waiting, 1)
    assert queue.take() == [1]


async def test_wait_returns_after_its_timeout() -> None:
    queue: BackgroundQueue[int] = BackgroundQueue()
    await asyncio.wait_for(queue.wait(0.01), 1)
    assert len(queue) == 0


async def test_drain_waits_for_the_task_to_finish_its_items() -> None:
    queue: BackgroundQueue[int] = BackgroundQueue()
    queue.put(1)
    queue.take()
    draining = asyncio.create_task(queue.drain(10))
    await asyncio.sleep(0.01)
    assert not draining.done(), "taken, but still in the hands of the task"
    await queue.wait(0)
    await asyncio.wait_for(draining, 1)
