# SPDX-License-Identifier: Apache-2.0
"""Fair, deadline-aware batching of concurrent requests for one model.

Urgent items go first. Among items of equal priority the callers take turns: the oldest item of each caller,
then the next of each (Nagle, RFC 970, "fair queuing"). A client that floods the queue delays only its own
requests.

Each item is prepared (an image is decoded and scaled), then computed in a batch with others. A batch opens
with its first item. It closes when it is full, or ``max_wait_s`` later. A lane is a thread that takes the
next batch as soon as it has finished the last one, without waiting for the event loop.

On a CPU, use one lane per core and batches of one. Each lane prepares its own items, so nothing moves
between cores and waiting images stay compressed. On a GPU, use one lane with large batches, and preparer
threads that fill the next batch meanwhile.

A batch runs alone if nothing else is computed or queued. On a CPU it may then use all cores, which nearly
halves the latency of a single caller on two of them.

Results are delivered at once while few items wait. While the lanes are busy, results are collected for a
moment, because each wake-up of the event loop competes with the lanes for the GIL.
"""

import asyncio
import atexit
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cache
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from blemish_core.platform.errors import DeadlineExceeded, Overloaded

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Result = TypeVar("Result")

# Weight of the newest item in the moving average of the time per item.
_NEWEST_WEIGHT = 0.1
# Longest time that a result is held back for others.
_COLLECT_S = 0.010
# Queued items per lane from which on results are collected: a late delivery then leaves no lane idle.
_BUSY_ITEMS_PER_LANE = 2
# At exit, a lane has this long to finish its batch.
_EXIT_TIMEOUT_S = 10.0

_threads: WeakSet[threading.Thread] = WeakSet()


@cache
def _register_exit_handler() -> None:
    """Join the threads of closed batchers at exit.

    A process aborts if one of its threads frees a tensor while the interpreter shuts down.
    """
    atexit.register(_join_threads)


def _join_threads() -> None:
    give_up = time.monotonic() + _EXIT_TIMEOUT_S
    for thread in list(_threads):
        thread.join(max(give_up - time.monotonic(), 0.0))


class Priority(IntEnum):
    """The urgency of an item. A lower priority waits for as long as there are higher ones."""

    LINE_STOP = 0
    AUDIT = 1
    BACKFILL = 2


class AdmissionLimit(Enum):
    """The number of items that may be ahead of a new one before it is rejected."""

    SHORT = "short"
    """``max_ahead`` items of this limit or of higher priority. Other items take turns with it."""
    STANDARD = "standard"
    """``max_queued`` items."""
    UNLIMITED = "unlimited"
    """Any number, for callers that are few and bounded themselves."""


@dataclass(frozen=True)
class BatchingPolicy:
    """The sizes, waits and threads of a batcher."""

    max_batch_size: int = 8
    max_wait_s: float = 0.002
    """Longest time that the first item of a batch waits for others."""
    max_queued: int = 64
    """Items ahead of a new one from which on it is rejected."""
    max_ahead: int = 0
    """The same for ``AdmissionLimit.SHORT``; 0 means the number that the lanes take next."""
    lanes: int = 1
    """Batches computed at the same time."""
    preparers: int = 0
    """Threads that prepare items for the lanes; with 0, each lane prepares its own."""


@dataclass(frozen=True)
class Timings:
    """The time that one item spent in each stage, in seconds."""

    queue_s: float = 0.0
    """Waiting for a lane and for the batch to fill."""
    decode_s: float = 0.0
    """Preparation."""
    inference_s: float = 0.0
    """Computation of the whole batch."""


@dataclass(frozen=True)
class Completed(Generic[Result]):
    """The result of an item and where its time went."""

    result: Result
    timings: Timings


@dataclass(eq=False)
class _QueuedItem(Generic[Item, Ready, Result]):
    """An item in the batcher. After a thread has taken it, only this thread changes it."""

    item: Item | None
    caller: Hashable
    priority: Priority
    limit: AdmissionLimit
    since: float
    deadline: float
    completed: "asyncio.Future[Completed[Result]]"
    queue: "_FairQueue[Item, Ready, Result] | None" = None
    """The queue that holds it; None once a thread has taken it or its caller has left."""
    ready: Any = None
    prepare_s: float = 0.0
    queue_s: float = 0.0

    def is_stale(self, expected: float) -> bool:
        """Return whether the caller has left, or its deadline comes before the ``expected`` time."""
        return self.completed.cancelled() or expected > self.deadline


_Delivery = tuple[list[_QueuedItem[Item, Ready, Result]], list[Completed[Result]] | Exception]


class _FairQueue(Generic[Item, Ready, Result]):
    """A priority queue in which the callers of each priority take turns."""

    def __init__(self, max_items: float = math.inf) -> None:
        self._max_items = max_items
        self._changed = threading.Condition()
        self._callers: list[OrderedDict[Hashable, deque[_QueuedItem[Item, Ready, Result]]]]
        self._callers = [OrderedDict() for _ in Priority]  # the next caller comes first
        self._counts = [0] * len(Priority)
        self._closed = False

    def __len__(self) -> int:
        return sum(self._counts)

    @property
    def callers(self) -> int:
        """Number of callers with queued items, counted per priority."""
        return sum(len(callers) for callers in self._callers)

    @property
    def lock(self) -> threading.Condition:
        """The queue's lock. Holding it around several calls costs less than one acquisition each."""
        return self._changed

    def put(self, item: _QueuedItem[Item, Ready, Result]) -> None:
        """Add an item. Block while the queue is full."""
        with self._changed:
            while len(self) >= self._max_items and not self._closed:
                self._changed.wait()
            item.queue = self
            self._counts[item.priority] += 1
            self._callers[item.priority].setdefault(item.caller, deque()).append(item)
            self._notify()

    def discard(self, item: _QueuedItem[Item, Ready, Result]) -> None:
        """Remove an item if the queue still holds it."""
        with self._changed:
            if item.queue is not self:
                return
            item.queue = item.item = item.ready = None
            self._counts[item.priority] -= 1
            callers = self._callers[item.priority]
            callers[item.caller].remove(item)
            if not callers[item.caller]:
                del callers[item.caller]

    def ahead(self, caller: Hashable, priority: Priority) -> tuple[int, int]:
        """Return how many items would be taken before a new one.

        The second number leaves out items of equal priority that were admitted with more than
        ``AdmissionLimit.SHORT``.
        """
        with self._changed:
            urgent = sum(self._counts[:priority])
            callers = self._callers[priority]
            rounds = len(callers.get(caller, ())) + 1
            others = short = 0
            for items in callers.values():
                before = min(len(items), rounds)
                if items[0].limit is AdmissionLimit.SHORT:
                    short += before
                else:
                    others += before
            return urgent + others + short, urgent + short

    def take(
        self, max_items: int, max_wait_s: float, before_wait: Callable[[], None]
    ) -> list[_QueuedItem[Item, Ready, Result]]:
        """Wait for an item, then up to ``max_wait_s`` for more. Return an empty list once closed."""
        with self._changed:
            while not (batch := list(self._pop(max_items))) and not self._closed:
                before_wait()
                self._changed.wait()
            closes = time.monotonic() + max_wait_s
            while batch and len(batch) < max_items and not self._closed:
                remaining_s = closes - time.monotonic()
                if remaining_s <= 0 or not self._changed.wait(remaining_s):
                    break
                batch += self._pop(max_items - len(batch))
            if self._max_items < math.inf:
                self._notify()
            return batch

    def close(self) -> None:
        """Wake all threads that wait; ``take`` returns what is left, then nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _notify(self) -> None:
        if self._max_items == math.inf:
            self._changed.notify()
        else:  # threads wait for space and for items: a single one might be the wrong one
            self._changed.notify_all()

    def _pop(self, max_items: int) -> Iterator[_QueuedItem[Item, Ready, Result]]:
        for callers in self._callers:
            while callers and max_items:
                caller, items = callers.popitem(last=False)
                item = items.popleft()
                if items:
                    callers[caller] = items  # to the end, for the next round
                item.queue = None
                self._counts[item.priority] -= 1
                max_items -= 1
                yield item


class BusyLanes:
    """The lanes that work at the moment, of one batcher or of several that share the cores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    @property
    def count(self) -> int:
        """Number of lanes that work."""
        return self._count

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count a lane within the block."""
        with self._lock:
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1


class Batcher(Generic[Item, Ready, Result]):
    """A batching queue that calls ``prepare`` and ``run_batch`` in threads of its own.

    Create it inside the event loop that submits items. It works until ``close``.
    """

    def __init__(
        self,
        prepare: Callable[[Item], Ready],
        run_batch: Callable[[Sequence[Ready]], Sequence[Result]],
        policy: BatchingPolicy,
        *,
        run_alone: Callable[[Sequence[Ready]], Sequence[Result]] | None = None,
        busy: BusyLanes | None = None,
        name: str = "batcher",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the threads.

        Args:
            prepare: prepares one item.
            run_batch: computes the results of prepared items.
            policy: sizes, waits and threads.
            run_alone: called instead of ``run_batch`` while nothing else is queued here, and no other lane
                of ``busy`` works. It never runs twice at once.
            busy: the lanes of all batchers that share the cores; by default those of this one.
            name: prefix of the names of threads.
            clock: clock of deadlines, in seconds.
        """
        self._prepare = prepare
        self._run_batch = run_batch
        self._run_alone = run_alone
        self._busy = busy or BusyLanes()
        self._policy = policy
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._arrived: _FairQueue[Item, Ready, Result] = _FairQueue()
        self._pending: set[asyncio.Future[Completed[Result]]] = set()
        self._max_ahead = {
            AdmissionLimit.SHORT: policy.max_ahead or policy.lanes * policy.max_batch_size,
            AdmissionLimit.STANDARD: policy.max_queued,
            AdmissionLimit.UNLIMITED: math.inf,
        }
        self._item_s = 0.0
        """Moving average of the time per item, divided by the number of lanes."""
        self._undelivered: deque[_Delivery[Item, Ready, Result]] = deque()
        self._woken_s = 0.0
        """Time of the last wake-up of the event loop."""
        prepared = self._arrived
        if policy.preparers:
            prepared = _FairQueue(max_items=2 * policy.max_batch_size)
        self._queues = (self._arrived, prepared)
        work = [lambda: self._run_preparer(prepared)] * policy.preparers
        work += [lambda: self._run_lane(prepared)] * policy.lanes
        _register_exit_handler()
        for number, target in enumerate(work):
            thread = threading.Thread(target=target, name=f"{name}-{number}", daemon=True)
            thread.start()
            _threads.add(thread)

    @property
    def queued(self) -> int:
        """Number of items that no thread has taken yet."""
        return len(self._arrived)

    @property
    def callers(self) -> int:
        """Number of callers with queued items, counted per priority."""
        return self._arrived.callers

    async def submit(
        self,
        item: Item,
        *,
        caller: Hashable = None,
        priority: Priority = Priority.AUDIT,
        deadline: float = math.inf,
        limit: AdmissionLimit = AdmissionLimit.STANDARD,
    ) -> Completed[Result]:
        """Return the result of ``item``, computed in a batch with others.

        Args:
            item: argument of ``prepare``.
            caller: owner of the item; callers of equal priority take turns.
            priority: urgency.
            deadline: on the batcher's clock; nothing is computed after it.
            limit: number of items that may be ahead.

        Raises:
            Overloaded: if more items are ahead than ``limit`` allows.
            DeadlineExceeded: if the deadline has passed, or the queue is too long to meet it.
            Exception: any error of ``prepare`` or ``run_batch``.
        """
        self._deliver()  # the event loop is awake already
        completed: asyncio.Future[Completed[Result]] = self._loop.create_future()
        queued: _QueuedItem[Item, Ready, Result] = _QueuedItem(
            item, caller, priority, limit, self._clock(), deadline, completed
        )
        with self._arrived.lock:
            self._admit(queued)
            self._pending.add(completed)
            self._arrived.put(queued)
        try:
            return await completed
        finally:
            self._pending.discard(completed)
            if (queue := queued.queue) is not None:
                queue.discard(queued)

    def close(self) -> None:
        """Stop the threads after their current batches, and cancel all items still queued."""
        for queue in self._queues:
            queue.close()
        self._deliver()
        for completed in list(self._pending):
            completed.cancel()

    def _admit(self, item: _QueuedItem[Item, Ready, Result]) -> None:
        """Reject an item that would be late, or that has too many others ahead of it."""
        ahead, counted = self._arrived.ahead(item.caller, item.priority)
        # Each lane has an item in hand, and then computes this one: two items per lane.
        wait_s = (ahead + 2 * self._policy.lanes) * self._item_s
        remaining_s = item.deadline - item.since
        # The estimate comes from earlier items. If the queue is empty, run the item anyway: otherwise one
        # slow item could get every later one rejected.
        if remaining_s < 0 or (ahead and wait_s > remaining_s):
            raise DeadlineExceeded(
                f"scoring would take about {wait_s:.2f} s, but {max(remaining_s, 0):.2f} s are left; "
                "allow more time, or send fewer images",
                retry_after_s=wait_s,
            )
        remedy = "send fewer images"
        if item.limit is not AdmissionLimit.SHORT:
            counted, remedy = ahead, "raise BLEMISH_MAX_QUEUED"
        if counted >= self._max_ahead[item.limit]:
            raise Overloaded(
                f"{counted} images are queued already; retry later, or {remedy}",
                retry_after_s=max(wait_s, 0.1),
            )

    def _run_preparer(self, prepared: _FairQueue[Item, Ready, Result]) -> None:
        while batch := self._arrived.take(1, 0, self._wake):
            for item in self._prepare_each(batch):
                prepared.put(item)

    def _run_lane(self, queue: _FairQueue[Item, Ready, Result]) -> None:
        while batch := queue.take(self._policy.max_batch_size, self._policy.max_wait_s, self._wake):
            with self._busy.one_more():
                batch, outcome, share_s = self._run(batch, queue)
            # Now the lane is free: a caller that waits for this item sends the next one at once.
            if batch:
                self._hand_over(batch, outcome)
                self._item_s += _NEWEST_WEIGHT * (share_s - self._item_s) if self._item_s else share_s

    def _run(
        self, batch: list[_QueuedItem[Item, Ready, Result]], queue: _FairQueue[Item, Ready, Result]
    ) -> tuple[list[_QueuedItem[Item, Ready, Result]], list[Completed[Result]] | Exception, float]:
        """Return the items that were computed, their outcome, and the time of one on all lanes, in s."""
        began = self._clock()
        if queue is self._arrived:
            batch = self._prepare_each(batch)
        # Check again before computing, because preparing took time.
        if not (batch := self._reject_stale(batch)):
            return [], [], 0.0
        alone = self._run_alone is not None and self._busy.count == 1 and not len(queue)
        outcome = self._compute(batch, alone=alone)
        # A batch that runs alone takes the cores of all lanes.
        lanes = 1 if alone else self._policy.lanes
        return batch, outcome, (self._clock() - began) / len(batch) / lanes

    def _prepare_each(
        self, batch: list[_QueuedItem[Item, Ready, Result]]
    ) -> list[_QueuedItem[Item, Ready, Result]]:
        """Prepare the items one by one, and deliver the errors of those that fail."""
        done = []
        for queued in self._reject_stale(batch):
            began = self._clock()
            queued.queue_s = began - queued.since
            try:
                assert queued.item is not None  # only ``discard`` clears it, and not after ``take``
                queued.ready = self._prepare(queued.item)
            except Exception as error:
                self._hand_over([queued], error)
                continue
            queued.item = None  # the prepared input replaces it
            queued.since = self._clock()
            queued.prepare_s = queued.since - began
            done.append(queued)
        return done

    def _reject_stale(
        self, batch: list[_QueuedItem[Item, Ready, Result]]
    ) -> list[_QueuedItem[Item, Ready, Result]]:
        """Return the items worth computing, and reject those whose deadline cannot be met."""
        # If the queue is empty, run slow items anyway; see ``_admit``.
        expected_s = self._item_s * self._policy.lanes if len(self._arrived) else 0.0
        expected = self._clock() + expected_s
        stale = [item for item in batch if item.is_stale(expected)]
        if stale:
            self._hand_over(
                stale,
                DeadlineExceeded("the deadline passed in the queue; allow more time, or send fewer images"),
            )
        return [item for item in batch if item not in stale]

    def _compute(
        self, batch: list[_QueuedItem[Item, Ready, Result]], *, alone: bool
    ) -> list[Completed[Result]] | Exception:
        began = self._clock()
        for item in batch:
            item.queue_s += began - item.since
        try:
            run = self._run_alone if alone and self._run_alone else self._run_batch
            results = run([item.ready for item in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items got {len(results)} results; this is a bug")
        except Exception as error:
            return error
        compute_s = self._clock() - began
        return [
            Completed(result, Timings(item.queue_s, item.prepare_s, compute_s))
            for item, result in zip(batch, results, strict=True)
        ]

    def _hand_over(
        self,
        batch: list[_QueuedItem[Item, Ready, Result]],
        outcome: list[Completed[Result]] | Exception,
    ) -> None:
        """Pass an outcome to the event loop, now or together with the next one."""
        self._undelivered.append((batch, outcome))
        if not self._may_collect(batch):
            self._wake()

    def _may_collect(self, batch: list[_QueuedItem[Item, Ready, Result]]) -> bool:
        """Return whether a delivery may wait for the next one, which is expected soon."""
        now = self._clock()
        busy = len(self._arrived) >= _BUSY_ITEMS_PER_LANE * self._policy.lanes
        soon = now < self._woken_s + _COLLECT_S and 0 < self._item_s <= 2 * _COLLECT_S
        return (
            busy
            and soon
            and all(
                item.priority > Priority.LINE_STOP and item.deadline > now + 2 * _COLLECT_S
                for item in batch
            )
        )

    def _wake(self) -> None:
        """Schedule the delivery in the event loop, unless the loop is closed."""
        if self._undelivered:
            self._woken_s = self._clock()
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        """Resolve the futures of finished items. Call it in the event loop."""
        while self._undelivered:
            batch, outcome = self._undelivered.popleft()
            for number, item in enumerate(batch):
                if item.completed.done():
                    continue
                if isinstance(outcome, Exception):
                    item.completed.set_exception(outcome)
                else:
                    item.completed.set_result(outcome[number])
