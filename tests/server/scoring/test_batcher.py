# SPDX-License-Identifier: Apache-2.0
import asyncio
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
from blemish_server.scoring import batcher
from blemish_server.scoring.batcher import Batcher, BatchingPolicy, Patience, Priority

PATIENT = BatchingPolicy(max_batch_size=4, max_wait_s=60)
PROMPT = BatchingPolicy(max_batch_size=4, max_wait_s=0.001)
ONE = BatchingPolicy(max_batch_size=1)


class Doubler:
    """Doubles its items, remembers the batches it was given, and waits while ``gate`` is closed."""

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
    async def under(self, policy: BatchingPolicy) -> AsyncIterator[Batcher[int, int, int]]:
        batcher = Batcher(self.prepare, self, policy)
        yield batcher
        self.gate.set()
        batcher.close()

    async def busy(self, batcher: Batcher[int, int, int]) -> "asyncio.Task[object]":
        """Occupy the lane until the gate opens."""
        self.gate.clear()
        task = asyncio.create_task(batcher.submit(100))
        await asyncio.sleep(0)
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)
        return task


async def test_concurrent_items_share_a_batch_and_keep_their_answers() -> None:
    double = Doubler()
    async with double.under(PATIENT) as batcher:
        answers = await asyncio.gather(*(batcher.submit(item) for item in [1, 2, 3, 4]))
    assert [answer.result for answer in answers] == [2, 4, 6, 8]
    assert double.batches == [[1, 2, 3, 4]]


async def test_a_batch_is_never_larger_than_the_policy_allows() -> None:
    double = Doubler()
    async with double.under(PROMPT) as batcher:
        busy = await double.busy(batcher)
        asked = [asyncio.create_task(batcher.submit(item)) for item in range(1, 11)]
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, *asked)
    assert [len(batch) for batch in double.batches] == [1, 4, 4, 2]


async def test_a_lone_item_is_served_after_the_wait() -> None:
    async with Doubler().under(PROMPT) as batcher:
        assert (await batcher.submit(21)).result == 42


async def test_a_failing_batch_fails_its_callers_and_not_the_next_batch() -> None:
    async with Doubler().under(PROMPT) as batcher:
        with pytest.raises(ValueError, match="cannot double"):
            await batcher.submit(-1)
        assert (await batcher.submit(3)).result == 6


@pytest.mark.parametrize("preparing", [0, 2])
async def test_an_item_that_cannot_be_prepared_fails_alone(preparing: int) -> None:
    async with Doubler().under(BatchingPolicy(2, 0.2, preparing=preparing)) as batcher:
        failed, done = await asyncio.gather(batcher.submit(-2), batcher.submit(3), return_exceptions=True)
        assert isinstance(failed, ValueError)
        assert not isinstance(done, BaseException)
        assert done.result == 6


async def test_a_wrong_number_of_answers_is_reported_as_a_bug() -> None:
    async with Doubler().under(PROMPT) as batcher:
        with pytest.raises(RuntimeError, match="this is a bug"):
            await batcher.submit(0)


async def test_nothing_is_computed_for_a_caller_who_left() -> None:
    double = Doubler()
    async with double.under(ONE) as batcher:
        busy = await double.busy(batcher)
        left = asyncio.create_task(batcher.submit(1))
        stayed = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, stayed)
    assert double.prepared == [100, 2]


async def test_the_urgent_go_first_and_equals_in_their_order() -> None:
    double = Doubler()
    async with double.under(ONE) as batcher:
        busy = await double.busy(batcher)
        asked = [
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
        await asyncio.gather(busy, *asked)
    assert double.batches == [[100], [3], [5], [2], [4], [1]]


async def test_among_equals_turns_go_round() -> None:
    double = Doubler()
    async with double.under(ONE) as batcher:
        busy = await double.busy(batcher)
        asked = [
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
        await asyncio.gather(busy, *asked)
    assert [item for (item,) in double.batches] == [100, 7, 1, 4, 5, 2, 6, 3]


async def test_a_batch_has_one_of_each_caller_before_a_second_of_any() -> None:
    double = Doubler()
    async with double.under(BatchingPolicy(max_batch_size=3, max_wait_s=0)) as batcher:
        busy = await double.busy(batcher)
        asked = [
            asyncio.create_task(batcher.submit(item, caller=caller))
            for item, caller in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")]
        ]
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, *asked)
    assert double.batches == [[100], [1, 4, 5], [2, 3]]


async def test_whoever_comes_and_goes_nobody_is_taken_twice_while_another_waits() -> None:
    seed = int(time.time())
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    double = Doubler()
    async with double.under(ONE) as batcher:
        busy = await double.busy(batcher)
        asked: dict[int, asyncio.Task[object]] = {}
        callers = random.integers(5, size=200)
        for item, caller in enumerate(callers.tolist(), start=1):
            asked[item] = asyncio.create_task(
                batcher.submit(item, caller=caller, patience=Patience.ENDLESS)
            )
            await asyncio.sleep(0)
            if random.random() < 0.3:
                leaving = int(random.choice(list(asked)))
                asked.pop(leaving).cancel()
                await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, *asked.values())
        assert not any(batcher._arrived._turns)
    order = [item for (item,) in double.batches[1:]]
    assert sorted(order) == sorted(asked)
    taken = [int(callers[item - 1]) for item in order]
    for caller in set(taken):
        assert [item for item in order if callers[item - 1] == caller] == sorted(
            item for item in asked if callers[item - 1] == caller
        )
    # All wait from the start, so each round has every caller who still has an item.
    left = Counter(taken)
    while taken:
        size = len(left)
        assert sorted(taken[:size]) == sorted(left)
        left -= Counter(taken[:size])
        taken = taken[size:]


async def test_who_leaves_gives_the_turn_to_the_callers_next() -> None:
    double = Doubler()
    async with double.under(ONE) as batcher:
        busy = await double.busy(batcher)
        left = asyncio.create_task(batcher.submit(1, caller="a"))
        asked = [
            asyncio.create_task(batcher.submit(item, caller=caller))
            for item, caller in [(2, "b"), (3, "a")]
        ]
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, *asked)
    assert double.batches == [[100], [3], [2]]


async def test_a_queue_is_full_for_him_who_filled_it() -> None:
    double = Doubler()
    async with double.under(BatchingPolicy(max_batch_size=1, max_queued=2)) as batcher:
        busy = await double.busy(batcher)
        asked = [asyncio.create_task(batcher.submit(item, caller="much")) for item in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.submit(3, caller="much")
        asked.append(asyncio.create_task(batcher.submit(4, caller="little")))  # one is ahead of it, not two
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):  # here all three are
            await batcher.submit(5, caller="little")
        double.gate.set()
        await asyncio.gather(busy, *asked)
    assert double.batches == [[100], [1], [4], [2]]


async def test_a_full_queue_refuses_unless_one_is_patient_or_more_urgent() -> None:
    double = Doubler()
    async with double.under(BatchingPolicy(max_batch_size=1, max_queued=1)) as batcher:
        busy = await double.busy(batcher)
        waiting = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="BLEMISH_MAX_QUEUED"):
            await batcher.submit(2)
        with pytest.raises(Overloaded):
            await batcher.submit(2, priority=Priority.BACKFILL)
        urgent = asyncio.create_task(batcher.submit(3, priority=Priority.LINE_STOP))
        patient = asyncio.create_task(batcher.submit(4, patience=Patience.ENDLESS))
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, waiting, urgent, patient)
    assert double.batches == [[100], [3], [1], [4]]


async def test_who_has_no_patience_waits_for_the_lanes_next_items_alone() -> None:
    double = Doubler()
    async with double.under(ONE) as batcher:
        busy = await double.busy(batcher)
        waiting = asyncio.create_task(batcher.submit(1, patience=Patience.NONE))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.submit(2, patience=Patience.NONE)
        usual = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, waiting, usual)
    assert double.batches == [[100], [1], [3]]


async def test_who_has_no_patience_may_be_given_less_than_the_lanes_take_next() -> None:
    double = Doubler()
    async with double.under(BatchingPolicy(max_batch_size=4, max_wait_s=0, max_ahead=2)) as batcher:
        busy = await double.busy(batcher)
        waiting = [asyncio.create_task(batcher.submit(n, patience=Patience.NONE)) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.submit(3, patience=Patience.NONE)
        double.gate.set()
        await asyncio.gather(busy, *waiting)
    assert double.batches == [[100], [1, 2]]


async def test_who_has_no_patience_is_held_up_by_his_like_alone() -> None:
    double = Doubler()
    async with double.under(ONE) as batcher:
        busy = await double.busy(batcher)
        patient = [
            asyncio.create_task(batcher.submit(item, caller=caller, patience=Patience.ENDLESS))
            for item, caller in [(1, "a"), (2, "a"), (3, "b")]
        ]
        await asyncio.sleep(0)
        hasty = asyncio.create_task(batcher.submit(4, caller="c", patience=Patience.NONE))
        await asyncio.sleep(0)
        for caller in ("c", "d"):
            with pytest.raises(Overloaded):
                await batcher.submit(5, caller=caller, patience=Patience.NONE)
        urgent = asyncio.create_task(batcher.submit(6, priority=Priority.LINE_STOP))
        await asyncio.sleep(0)
        hasty.cancel()
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):  # the urgent one
            await batcher.submit(7, caller="c", patience=Patience.NONE)
        double.gate.set()
        await asyncio.gather(busy, urgent, *patient)
    assert double.batches == [[100], [6], [1], [3], [2]]


async def test_one_slow_item_does_not_refuse_all_after_it() -> None:
    double = Doubler()
    async with double.under(ONE) as batcher:
        busy = await double.busy(batcher)
        await asyncio.sleep(0.3)  # now an item is known to take 0.3 s
        double.gate.set()
        await busy
        assert (await batcher.submit(1, deadline=time.monotonic() + 0.1)).result == 2


async def test_those_who_left_take_no_room() -> None:
    double = Doubler()
    async with double.under(BatchingPolicy(max_batch_size=1, max_queued=1)) as batcher:
        busy = await double.busy(batcher)
        for item in range(1000):
            leaving = asyncio.create_task(batcher.submit(item))
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.sleep(0)
        assert batcher._arrived.waiting == 0
        assert not any(batcher._arrived._turns)
        double.gate.set()
        await busy
    assert double.prepared == [100]


async def test_who_is_late_already_is_refused_at_the_door() -> None:
    double = Doubler()
    async with double.under(ONE) as batcher:
        with pytest.raises(DeadlineExceeded):
            await batcher.submit(1, deadline=time.monotonic() - 1)
    assert double.prepared == []


async def test_who_would_be_late_is_refused_at_the_door_once_it_is_known_how_long_it_takes() -> None:
    double = Doubler()
    async with double.under(ONE) as batcher:
        busy = await double.busy(batcher)
        await asyncio.sleep(0.2)
        double.gate.set()
        await busy
        double.entered.acquire(blocking=False)
        busy = await double.busy(batcher)
        waiting = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="are left"):  # two of some 0.2 s
            await batcher.submit(2, deadline=time.monotonic() + 0.3)
        in_time = asyncio.create_task(batcher.submit(3, deadline=time.monotonic() + 30))
        await asyncio.sleep(0)
        double.gate.set()
        await asyncio.gather(busy, waiting, in_time)
    assert 2 not in double.prepared


async def test_nothing_is_computed_once_the_deadline_has_passed() -> None:
    double = Doubler()
    async with double.under(ONE) as batcher:
        busy = await double.busy(batcher)
        late = asyncio.create_task(batcher.submit(1, deadline=time.monotonic() + 0.05))
        await asyncio.sleep(0.1)
        double.gate.set()
        await busy
        with pytest.raises(DeadlineExceeded, match="passed while it waited"):
            await late
    assert double.prepared == [100]


async def test_the_deadline_counts_once_more_before_the_device() -> None:
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


async def test_stopping_cancels_everyone_still_waiting() -> None:
    double = Doubler()
    async with double.under(ONE) as batcher:
        busy = await double.busy(batcher)
        waiting = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        batcher.close()
        results = await asyncio.gather(busy, waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2


async def test_threads_end_with_the_batcher() -> None:
    def running() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("mine-")]

    batcher = Batcher(Doubler().prepare, Doubler(), BatchingPolicy(lanes=2, preparing=2), name="mine")
    await batcher.submit(1)
    assert len(running()) == 4
    batcher.close()
    give_up = time.monotonic() + 10
    while running() and time.monotonic() < give_up:
        await asyncio.sleep(0.01)
    assert running() == []


def test_the_interpreter_ends_after_the_batch_in_hand() -> None:
    # A lane that lets go of a tensor while the interpreter ends would abort the process.
    ending = """
import asyncio, threading, time
from blemish_server.scoring.batcher import Batcher, BatchingPolicy

begun = threading.Event()

def work(items):
    begun.set()
    time.sleep(0.5)
    print("let go", flush=True)
    return items

async def main():
    batcher = Batcher(lambda item: item, work, BatchingPolicy())
    asyncio.create_task(batcher.submit(1))
    await asyncio.to_thread(begun.wait, 10)
    batcher.close()

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", ending], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "let go\n", "")


async def test_an_answer_tells_where_its_time_went() -> None:
    async with Doubler().under(BatchingPolicy(max_batch_size=2, max_wait_s=0.05)) as batcher:
        answer = await batcher.submit(1)
    assert answer.queued_s >= 0.05 or answer.prepared_s >= 0
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

    batcher: Batcher[int, int, int] = Batcher(
        lambda item: item, work, BatchingPolicy(max_batch_size=1, lanes=2)
    )
    answers = await asyncio.gather(*(batcher.submit(item) for item in range(10)))
    batcher.close()
    assert [answer.result for answer in answers] == [2 * item for item in range(10)]
    assert most == 2


async def test_threads_that_prepare_work_ahead_and_no_farther_than_two_batches() -> None:
    double = Doubler()
    policy = BatchingPolicy(max_batch_size=2, max_wait_s=0.01, preparing=1)
    async with double.under(policy) as batcher:
        busy = await double.busy(batcher)
        asked = [asyncio.create_task(batcher.submit(item)) for item in range(1, 21)]
        await asyncio.sleep(0.2)
        # Two full batches wait, and one more is in the preparer's hands.
        assert len(double.prepared) == 1 + 2 * 2 + 1
        double.gate.set()
        answers = await asyncio.gather(*asked)
        await busy
    assert [answer.result for answer in answers] == [2 * item for item in range(1, 21)]


GATHERING = BatchingPolicy(max_batch_size=1, lanes=1)


class Held:
    """A lane that has told one answer, computed the next, and is now at the third, with many in line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(batcher, "_GATHER_S", 1000.0)
        self.gates = [threading.Event() for _ in range(20)]
        self.entered = [threading.Event() for _ in range(20)]

    def compute(self, items: Sequence[int]) -> list[int]:
        self.entered[items[0]].set()
        assert self.gates[items[0]].wait(10)
        return list(items)

    @asynccontextmanager
    async def under(
        self,
        in_line: int,
        second: Priority = Priority.AUDIT,
        deadline: float = float("inf"),
        item_s: float = 0.001,
        told_ago_s: float = 0.0,
    ) -> AsyncIterator[tuple[Batcher[int, int, int], list["asyncio.Task[object]"]]]:
        batcher = Batcher(lambda item: item, self.compute, GATHERING)
        asked: list[asyncio.Task[object]] = []
        for number in range(2 + in_line):
            asked.append(
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
        for number in (0, 1):  # the first is told at once: none was before it
            self.gates[number].set()
            assert await asyncio.to_thread(self.entered[number + 1].wait, 10)
            batcher._item_s = item_s
            batcher._woken_s -= told_ago_s
        await asyncio.sleep(0)
        assert asked[0].done()
        try:
            yield batcher, asked
        finally:
            for gate in self.gates:
                gate.set()
            batcher.close()
            await asyncio.gather(*asked, return_exceptions=True)


async def test_answers_gather_where_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    async with held.under(in_line=4) as (_, asked):
        assert not asked[1].done()
        for gate in held.gates:
            gate.set()
        # The lane finds nobody in line any more and tells all before it waits.
        assert [answer.result for answer in await asyncio.gather(*asked)] == list(range(6))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("in_line", "second", "deadline_s", "item_s", "told_ago_s"),
    [
        pytest.param(1, Priority.AUDIT, float("inf"), 0.001, 0.0, id="few wait"),
        pytest.param(4, Priority.LINE_STOP, float("inf"), 0.001, 0.0, id="urgent"),
        pytest.param(4, Priority.AUDIT, 1500.0, 0.001, 0.0, id="near its deadline"),
        pytest.param(4, Priority.AUDIT, float("inf"), 3000.0, 0.0, id="the next one comes late"),
        pytest.param(4, Priority.AUDIT, float("inf"), 0.001, 1000.0, id="none was told for a while"),
    ],
)
async def test_an_answer_is_told_at_once(
    in_line: int,
    second: Priority,
    deadline_s: float,
    item_s: float,
    told_ago_s: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Held(monkeypatch)
    async with held.under(in_line, second, time.monotonic() + deadline_s, item_s, told_ago_s) as (_, asked):
        assert asked[1].done()


async def test_who_comes_has_the_answers_told_that_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    async with held.under(in_line=4) as (batcher, asked):
        asked.append(asyncio.create_task(batcher.submit(6)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asked[1].done()


async def test_answers_that_gathered_are_told_when_it_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(monkeypatch)
    async with held.under(in_line=4) as (batcher, asked):
        batcher.close()
        assert (await asked[1]).result == 1  # type: ignore[attr-defined]
        with pytest.raises(asyncio.CancelledError):
            await asked[5]


@pytest.mark.parametrize("preparing", [0, 1])
async def test_a_lane_tells_what_gathered_before_it_waits(
    preparing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if those in line had left just then.
    monkeypatch.setattr(Batcher, "_may_gather", lambda self, batch: True)
    async with Doubler().under(BatchingPolicy(max_batch_size=1, preparing=preparing)) as batcher:
        assert (await asyncio.wait_for(batcher.submit(1), 10)).result == 2
        with pytest.raises(ValueError, match="cannot prepare"):
            await asyncio.wait_for(batcher.submit(-2), 10)
