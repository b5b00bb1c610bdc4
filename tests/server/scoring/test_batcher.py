# SPDX-License-Identifier: Apache-2.0
"""Order, fairness, deadlines and threads of the batcher."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from blemish_core.platform.errors import DeadlineExceeded, Overloaded
from blemish_server.scoring.batcher import (
    AdmissionLimit,
    Batcher,
    BatchingPolicy,
    BusyLanes,
    Completed,
    Priority,
    Timings,
)

SLOW_TO_CLOSE = BatchingPolicy(max_batch_size=4, max_wait_s=60)
QUICK_TO_CLOSE = BatchingPolicy(max_batch_size=4, max_wait_s=0.001)
ONE = BatchingPolicy(max_batch_size=1)


class Doubler:
    """A computation that doubles its items, records its batches, and blocks while ``gate`` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.prepared: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def prepare(self, item: int) -> int:
        self.prepared.append(item)
        if item == -2:
            raise ValueError("cannot prepare -2")
        return item

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.release()
        assert self.gate.wait(10)
        if -1 in items:
            raise ValueError("cannot double -1")
        return [2 * item for item in items if item != 0]

    @asynccontextmanager
    async def batcher(self, policy: BatchingPolicy) -> AsyncIterator[Batcher[int, int, int]]:
        batcher = Batcher(self.prepare, self, policy)
        yield batcher
        self.gate.set()
        batcher.close()

    async def occupy(self, batcher: Batcher[int, int, int]) -> "asyncio.Task[Completed[int]]":
        """Occupy the lane until the gate opens."""
        self.gate.clear()
        task = asyncio.create_task(batcher.submit(100))
        await asyncio.sleep(0)
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)
        return task


async def test_concurrent_items_share_a_batch_and_keep_their_results() -> None:
    double = Doubler()
    async with double.batcher(SLOW_TO_CLOSE) as batcher:
        results = await asyncio.gather(*(batcher.submit(item) for item in [1, 2, 3, 4]))
    assert [each.result for each in results] == [2, 4, 6, 8]
    assert double.batches == [[1, 2, 3, 4]]


async def test_batch_is_never_larger_than_its_policy() -> None:
    double = Doubler()
    async with double.batcher(QUICK_TO_CLOSE) as batcher:
        busy = await double.occupy(batcher)
        tasks = [asyncio.create_task(batcher.submit(item)) for item in range(1, 11)]
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, *tasks)
    assert [len(batch) for batch in double.batches] == [1, 4, 4, 2]


async def test_single_item_is_computed_after_the_wait() -> None:
    async with Doubler().batcher(QUICK_TO_CLOSE) as batcher:
        assert (await batcher.submit(21)).result == 42


async def test_failed_batch_fails_its_callers_but_not_the_next_batch() -> None:
    async with Doubler().batcher(QUICK_TO_CLOSE) as batcher:
        with pytest.raises(ValueError, match="cannot double"):
            await batcher.submit(-1)
        assert (await batcher.submit(3)).result == 6


@pytest.mark.parametrize("preparers", [0, 2])
async def test_item_that_cannot_be_prepared_fails_alone(preparers: int) -> None:
    async with Doubler().batcher(BatchingPolicy(2, 0.2, preparers=preparers)) as batcher:
        failed, done = await asyncio.gather(batcher.submit(-2), batcher.submit(3), return_exceptions=True)
        assert isinstance(failed, ValueError)
        assert not isinstance(done, BaseException)
        assert done.result == 6


async def test_wrong_number_of_results_is_reported_as_a_bug() -> None:
    async with Doubler().batcher(QUICK_TO_CLOSE) as batcher:
        with pytest.raises(RuntimeError, match="this is a bug"):
            await batcher.submit(0)


async def test_item_of_a_cancelled_call_is_not_computed() -> None:
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        busy = await double.occupy(batcher)
        left = asyncio.create_task(batcher.submit(1))
        stayed = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, stayed)
    assert double.prepared == [100, 2]


async def test_urgent_items_go_first_and_equals_in_their_order() -> None:
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        busy = await double.occupy(batcher)
        tasks = [
            asyncio.create_task(batcher.submit(item, priority=priority))
            for item, priority in [
                (1, Priority.BACKFILL),
                (2, Priority.AUDIT),
                (3, Priority.LINE_STOP),
                (4, Priority.AUDIT),
                (5, Priority.LINE_STOP),
            ]
        ]
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, *tasks)
    assert double.batches == [[100], [3], [5], [2], [4], [1]]


async def test_callers_of_equal_priority_take_turns() -> None:
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        busy = await double.occupy(batcher)
        tasks = [
            asyncio.create_task(batcher.submit(item, caller=caller, priority=priority))
            for item, caller, priority in [
                (1, "much", Priority.AUDIT),
                (2, "much", Priority.AUDIT),
                (3, "much", Priority.AUDIT),
                (4, "little", Priority.AUDIT),
                (5, "some", Priority.AUDIT),
                (6, "some", Priority.AUDIT),
                (7, "much", Priority.LINE_STOP),
            ]
        ]
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, *tasks)
    assert [item for (item,) in double.batches] == [100, 7, 1, 4, 5, 2, 6, 3]


async def test_batch_takes_one_item_per_caller_before_a_second() -> None:
    double = Doubler()
    async with double.batcher(BatchingPolicy(max_batch_size=3, max_wait_s=0)) as batcher:
        busy = await double.occupy(batcher)
        tasks = [
            asyncio.create_task(batcher.submit(item, caller=caller))
            for item, caller in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")]
        ]
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, *tasks)
    assert double.batches == [[100], [1, 4, 5], [2, 3]]


async def test_random_arrivals_and_cancellations_keep_the_turns_fair() -> None:
    seed = int(os.environ.get("BLEMISH_TEST_SEED", time.time_ns() % 2**32))
    print(f"BLEMISH_TEST_SEED={seed}")
    random = np.random.default_rng(seed)
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        busy = await double.occupy(batcher)
        tasks: dict[int, asyncio.Task[Completed[int]]] = {}
        callers = random.integers(5, size=200)
        for item, caller in enumerate(callers.tolist(), start=1):
            tasks[item] = asyncio.create_task(
                batcher.submit(item, caller=caller, limit=AdmissionLimit.UNLIMITED)
            )
            await asyncio.sleep(0)
            if random.random() < 0.3:
                leaving = int(random.choice(list(tasks)))
                tasks.pop(leaving).cancel()
                await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, *tasks.values())
        assert (batcher.queued, batcher.callers) == (0, 0)
    order = [item for (item,) in double.batches[1:]]
    assert sorted(order) == sorted(tasks)
    taken = [int(callers[item - 1]) for item in order]
    for caller in set(taken):
        assert [item for item in order if callers[item - 1] == caller] == sorted(
            item for item in tasks if callers[item - 1] == caller
        )
    # All items were queued before the first was taken, so each round has every caller with items left.
    left = Counter(taken)
    while taken:
        size = len(left)
        assert sorted(taken[:size]) == sorted(left)
        left -= Counter(taken[:size])
        taken = taken[size:]


async def test_cancelled_item_passes_its_turn_to_the_next_of_its_caller() -> None:
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        busy = await double.occupy(batcher)
        left = asyncio.create_task(batcher.submit(1, caller="a"))
        tasks = [
            asyncio.create_task(batcher.submit(item, caller=caller))
            for item, caller in [(2, "b"), (3, "a")]
        ]
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, *tasks)
    assert double.batches == [[100], [3], [2]]


async def test_queue_is_full_for_the_caller_that_filled_it() -> None:
    double = Doubler()
    async with double.batcher(BatchingPolicy(max_batch_size=1, max_queued=2)) as batcher:
        busy = await double.occupy(batcher)
        tasks = [asyncio.create_task(batcher.submit(item, caller="much")) for item in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.submit(3, caller="much")
        tasks.append(asyncio.create_task(batcher.submit(4, caller="little")))  # one is ahead of it, not two
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):  # all three are
            await batcher.submit(5, caller="little")
        double.gate.set()
        await asyncio.gather(busy, *tasks)
    assert double.batches == [[100], [1], [4], [2]]


async def test_full_queue_admits_unlimited_and_more_urgent_items() -> None:
    double = Doubler()
    async with double.batcher(BatchingPolicy(max_batch_size=1, max_queued=1)) as batcher:
        busy = await double.occupy(batcher)
        waiting = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="BLEMISH_MAX_QUEUED"):
            await batcher.submit(2)
        with pytest.raises(Overloaded):
            await batcher.submit(2, priority=Priority.BACKFILL)
        urgent = asyncio.create_task(batcher.submit(3, priority=Priority.LINE_STOP))
        unlimited = asyncio.create_task(batcher.submit(4, limit=AdmissionLimit.UNLIMITED))
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, waiting, urgent, unlimited)
    assert double.batches == [[100], [3], [1], [4]]


async def test_short_limit_admits_only_the_next_items_of_the_lanes() -> None:
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        busy = await double.occupy(batcher)
        waiting = asyncio.create_task(batcher.submit(1, limit=AdmissionLimit.SHORT))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.submit(2, limit=AdmissionLimit.SHORT)
        usual = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, waiting, usual)
    assert double.batches == [[100], [1], [3]]


async def test_short_limit_can_be_lowered_by_the_policy() -> None:
    double = Doubler()
    async with double.batcher(BatchingPolicy(max_batch_size=4, max_wait_s=0, max_ahead=2)) as batcher:
        busy = await double.occupy(batcher)
        waiting = [asyncio.create_task(batcher.submit(n, limit=AdmissionLimit.SHORT)) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.submit(3, limit=AdmissionLimit.SHORT)
        double.gate.set()
        await asyncio.gather(busy, *waiting)
    assert double.batches == [[100], [1, 2]]


async def test_short_limit_counts_only_short_and_more_urgent_items() -> None:
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        busy = await double.occupy(batcher)
        unlimited = [
            asyncio.create_task(batcher.submit(item, caller=caller, limit=AdmissionLimit.UNLIMITED))
            for item, caller in [(1, "a"), (2, "a"), (3, "b")]
        ]
        await asyncio.sleep(0)
        short = asyncio.create_task(batcher.submit(4, caller="c", limit=AdmissionLimit.SHORT))
        await asyncio.sleep(0)
        for caller in ("c", "d"):
            with pytest.raises(Overloaded):
                await batcher.submit(5, caller=caller, limit=AdmissionLimit.SHORT)
        urgent = asyncio.create_task(batcher.submit(6, priority=Priority.LINE_STOP))
        await asyncio.sleep(0)
        short.cancel()
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):  # the urgent one
            await batcher.submit(7, caller="c", limit=AdmissionLimit.SHORT)
        double.gate.set()
        await asyncio.gather(busy, urgent, *unlimited)
    assert double.batches == [[100], [6], [1], [3], [2]]


async def test_slow_item_does_not_get_later_ones_rejected() -> None:
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        busy = await double.occupy(batcher)
        await asyncio.sleep(0.3)  # the batcher estimates 0.3 s per item now
        double.gate.set()
        await busy
        assert (await batcher.submit(1, deadline=time.monotonic() + 0.1)).result == 2


async def test_cancelled_items_take_no_space() -> None:
    double = Doubler()
    async with double.batcher(BatchingPolicy(max_batch_size=1, max_queued=1)) as batcher:
        busy = await double.occupy(batcher)
        for item in range(1000):
            leaving = asyncio.create_task(batcher.submit(item))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.sleep(0)
        assert (batcher.queued, batcher.callers) == (0, 0)
        double.gate.set()
        await busy
    assert double.prepared == [100]


async def test_item_past_its_deadline_is_rejected_at_once() -> None:
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(1, deadline=time.monotonic() - 1)
    assert double.prepared == []


async def test_item_that_would_be_late_is_rejected_at_once() -> None:
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        busy = await double.occupy(batcher)
        await asyncio.sleep(0.2)
        double.gate.set()
        await busy
        double.entered.acquire(blocking=False)
        busy = await double.occupy(batcher)
        waiting = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="are left"):  # two items of 0.2 s
            await batcher.submit(2, deadline=time.monotonic() + 0.3)
        in_time = asyncio.create_task(batcher.submit(3, deadline=time.monotonic() + 30))
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, waiting, in_time)
    assert 2 not in double.prepared


async def test_item_is_not_prepared_after_its_deadline() -> None:
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        busy = await double.occupy(batcher)
        late = asyncio.create_task(batcher.submit(1, deadline=time.monotonic() + 0.05))
        await asyncio.sleep(0.1)
        double.gate.set()
        await busy
        with pytest.raises(DeadlineExceeded, match="passed in the queue"):
            await late
    assert double.prepared == [100]


async def test_deadline_is_checked_again_before_computing() -> None:
    batches: list[list[int]] = []

    def slow(item: int) -> int:
        time.sleep(0.1)
        return item

    def run(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        return list(items)

    batcher = Batcher(slow, run, ONE)
    with pytest.raises(DeadlineExceeded):
        await batcher.submit(1, deadline=time.monotonic() + 0.05)
    batcher.close()
    assert batches == []


async def test_close_cancels_queued_items() -> None:
    double = Doubler()
    async with double.batcher(ONE) as batcher:
        busy = await double.occupy(batcher)
        waiting = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        batcher.close()
        results = await asyncio.gather(busy, waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2


async def test_close_ends_the_threads() -> None:
    def running() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("mine-")]

    batcher = Batcher(Doubler().prepare, Doubler(), BatchingPolicy(lanes=2, preparers=2), name="mine")
    await batcher.submit(1)
    assert len(running()) == 4
    batcher.close()
    give_up = time.monotonic() + 10
    while running() and time.monotonic() < give_up:
        await asyncio.sleep(0.01)
    assert running() == []


def test_interpreter_exits_after_the_current_batch() -> None:
    # A lane that frees a tensor during the shutdown of the interpreter would abort the process.
    ending = """
import asyncio, threading, time
from blemish_server.scoring.batcher import Batcher, BatchingPolicy

started = threading.Event()

def work(items):
    started.set()
    time.sleep(0.5)
    print("freed", flush=True)
    return items

async def main():
    batcher = Batcher(lambda item: item, work, BatchingPolicy())
    asyncio.create_task(batcher.submit(1))
    await asyncio.to_thread(started.wait, 10)
    batcher.close()

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", ending], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "freed\n", "")


async def test_timings_are_split_into_queue_preparation_and_computation() -> None:
    now, both_queued = 0.0, threading.Event()

    def prepare(item: int) -> int:
        nonlocal now
        assert both_queued.wait(10)
        now += 1
        return item

    def run(items: Sequence[int]) -> list[int]:
        nonlocal now
        now += 10
        return list(items)

    batcher = Batcher(prepare, run, ONE, clock=lambda: now)
    tasks = [asyncio.create_task(batcher.submit(item)) for item in (1, 2)]
    await asyncio.sleep(0)
    both_queued.set()
    first, second = [(await task).timings for task in tasks]
    batcher.close()
    assert first == Timings(queue_s=0, decode_s=1, inference_s=10)
    assert second == Timings(queue_s=11, decode_s=1, inference_s=10)


async def test_lanes_compute_in_parallel_but_not_more_batches_than_lanes() -> None:
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

    batcher: Batcher[int, int, int] = Batcher(
        lambda item: item, work, BatchingPolicy(max_batch_size=1, lanes=2)
    )
    results = await asyncio.gather(*(batcher.submit(item) for item in range(10)))
    batcher.close()
    assert [each.result for each in results] == [2 * item for item in range(10)]
    assert most == 2


class Alone(Doubler):
    """A computation that records which items ran alone."""

    def __init__(self) -> None:
        super().__init__()
        self.alone: list[int] = []

    def run_alone(self, items: Sequence[int]) -> list[int]:
        self.alone += items
        return self(items)

    def make(self, lanes: int, busy: BusyLanes | None = None) -> Batcher[int, int, int]:
        policy = BatchingPolicy(max_batch_size=1, lanes=lanes)
        return Batcher(self.prepare, self, policy, run_alone=self.run_alone, busy=busy)


async def test_items_of_a_lone_caller_run_alone() -> None:
    double = Alone()
    batcher = double.make(lanes=3)
    for item in (1, 2, 3):
        assert (await batcher.submit(item)).result == 2 * item
    batcher.close()
    assert double.alone == [1, 2, 3]


async def test_item_does_not_run_alone_while_another_is_computed() -> None:
    double = Alone()
    batcher = double.make(lanes=3)
    first = await double.occupy(batcher)
    second = asyncio.create_task(batcher.submit(2))
    assert await asyncio.to_thread(double.entered.acquire, timeout=10)
    double.gate.set()
    await asyncio.gather(first, second)
    batcher.close()
    assert double.alone == [100]


async def test_item_does_not_run_alone_while_another_is_queued() -> None:
    double = Alone()
    batcher = double.make(lanes=1)
    first = await double.occupy(batcher)
    others = [asyncio.create_task(batcher.submit(item)) for item in (1, 2)]
    await asyncio.sleep(0)
    double.gate.set()
    await asyncio.gather(first, *others)
    batcher.close()
    assert double.alone == [100, 2]


async def test_item_does_not_run_alone_while_another_batcher_computes() -> None:
    busy, double, other = BusyLanes(), Alone(), Alone()
    batchers = double.make(1, busy), other.make(1, busy)
    first = await double.occupy(batchers[0])
    await batchers[1].submit(2)
    double.gate.set()
    await first
    for batcher in batchers:
        batcher.close()
    assert (double.alone, other.alone) == ([100], [])


async def test_item_that_cannot_be_prepared_leaves_the_lane_free() -> None:
    double = Alone()
    batcher = double.make(lanes=1)
    with pytest.raises(ValueError, match="cannot prepare"):
        await batcher.submit(-2)
    await batcher.submit(3)
    batcher.close()
    assert double.alone == [3]


async def test_preparers_work_ahead_by_two_batches_at_most() -> None:
    double = Doubler()
    policy = BatchingPolicy(max_batch_size=2, max_wait_s=0.01, preparers=1)
    async with double.batcher(policy) as batcher:
        busy = await double.occupy(batcher)
        tasks = [asyncio.create_task(batcher.submit(item)) for item in range(1, 21)]
        await asyncio.sleep(0.2)
        # Two full batches are prepared, and the preparer holds one more item.
        assert len(double.prepared) == 1 + 2 * 2 + 1
        double.gate.set()
        results = await asyncio.gather(*tasks)
        await busy
    assert [each.result for each in results] == [2 * item for item in range(1, 21)]


class GatedLane:
    """A lane that has delivered result 0, computed item 1, and waits for a gate with item 2.

    Its clock stands still, except that an item takes ``item_s`` and item 1 is computed ``pause_s`` later.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.item_s = 0.001
        self.gates = [threading.Event() for _ in range(20)]
        self.entered = [threading.Event() for _ in range(20)]

    def compute(self, items: Sequence[int]) -> list[int]:
        self.entered[items[0]].set()
        assert self.gates[items[0]].wait(10)
        self.now += self.item_s
        return list(items)

    @asynccontextmanager
    async def batcher(
        self,
        queued: int,
        *,
        second: Priority = Priority.AUDIT,
        deadline: float = float("inf"),
        pause_s: float = 0.0,
    ) -> AsyncIterator[tuple[Batcher[int, int, int], list["asyncio.Task[Completed[int]]"]]]:
        batcher = Batcher(lambda item: item, self.compute, ONE, clock=lambda: self.now)
        tasks: list[asyncio.Task[Completed[int]]] = []
        for number in range(2 + queued):
            tasks.append(
                asyncio.create_task(
                    batcher.submit(
                        number,
                        priority=second if number == 1 else Priority.AUDIT,
                        deadline=deadline if number == 1 else float("inf"),
                    )
                )
            )
            await asyncio.sleep(0)
            if not number:
                assert await asyncio.to_thread(self.entered[0].wait, 10)
        for number in (0, 1):
            self.gates[number].set()
            assert await asyncio.to_thread(self.entered[number + 1].wait, 10)
            self.now += pause_s
        await asyncio.sleep(0)
        assert tasks[0].done(), "the first result is delivered at once"
        try:
            yield batcher, tasks
        finally:
            for gate in self.gates:
                gate.set()
            batcher.close()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_results_are_collected_while_many_items_are_queued() -> None:
    lane = GatedLane()
    async with lane.batcher(queued=4) as (_, tasks):
        assert not tasks[1].done()
        for gate in lane.gates:
            gate.set()
        # The lane finds the queue empty and delivers all results before it waits.
        assert [each.result for each in await asyncio.gather(*tasks)] == list(range(6))


@pytest.mark.parametrize(
    ("queued", "second", "deadline", "item_s", "pause_s"),
    [
        pytest.param(1, Priority.AUDIT, float("inf"), 0.001, 0.0, id="few are queued"),
        pytest.param(4, Priority.LINE_STOP, float("inf"), 0.001, 0.0, id="urgent"),
        pytest.param(4, Priority.AUDIT, 0.015, 0.001, 0.0, id="near its deadline"),
        pytest.param(4, Priority.AUDIT, float("inf"), 0.03, 0.0, id="the next result comes late"),
        pytest.param(4, Priority.AUDIT, float("inf"), 0.001, 0.1, id="none was delivered for a while"),
    ],
)
async def test_result_is_delivered_at_once(
    queued: int, second: Priority, deadline: float, item_s: float, pause_s: float
) -> None:
    lane = GatedLane()
    lane.item_s = item_s
    async with lane.batcher(queued, second=second, deadline=deadline, pause_s=pause_s) as (_, tasks):
        assert tasks[1].done()


async def test_new_item_delivers_collected_results() -> None:
    async with GatedLane().batcher(queued=4) as (batcher, tasks):
        tasks.append(asyncio.create_task(batcher.submit(6)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert tasks[1].done()


async def test_close_delivers_collected_results() -> None:
    async with GatedLane().batcher(queued=4) as (batcher, tasks):
        batcher.close()
        assert (await tasks[1]).result == 1
        with pytest.raises(asyncio.CancelledError):
            await tasks[5]


@pytest.mark.parametrize("preparers", [0, 1])
async def test_lane_delivers_collected_results_before_it_waits(
    preparers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Simulates queued items that are cancelled at that moment.
    monkeypatch.setattr(Batcher, "_may_collect", lambda self, batch: True)
    async with Doubler().batcher(BatchingPolicy(max_batch_size=1, preparers=preparers)) as batcher:
        assert (await asyncio.wait_for(batcher.submit(1), 10)).result == 2
        with pytest.raises(ValueError, match="cannot prepare"):
            await asyncio.wait_for(batcher.submit(-2), 10)
