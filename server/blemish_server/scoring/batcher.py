# SPDX-License-Identifier: Apache-2.0
"""Lead concurrent requests to the device: the urgent first, in batches, and none whose time is over.

Among equals turns go round: each caller's oldest item once, then each one's next (Nagle, RFC 970, "fair
queuing"). Who sends much waits behind his own, not in front of those who send little.

An item is prepared (an image decoded and scaled) and then computed in a batch with others. A batch opens
with its first item and closes when it is full or ``max_wait_s`` later, whichever comes first. A lane is a
thread that takes the next batch as soon as it has done the last one: where it is kept busy it never waits
for the event loop.

The cores of a CPU do most with a lane each and batches of one, which they prepare themselves: nothing is
handed from core to core, and an image that waits is as small as it came. A GPU wants one lane, large
batches, and threads that prepare the next ones meanwhile.

An answer is told at once where few wait. Where the lanes have enough to do, answers gather for a moment:
each time the event loop wakes, it and the lanes wait for each other, and with it wake those who send.
"""

import asyncio
import atexit
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from blemish_core.platform.errors import DeadlineExceeded, Overloaded

Item = TypeVar("Item")
Ready = TypeVar("Ready")
Result = TypeVar("Result")

# Of the mean time of an item: about the last ten of them count.
_NEW_SHARE = 0.1
# Tried on streams of PatchCore on two cores, interleaved: 10 ms gave 4 % more frames than telling at once,
# 20 ms no more than that.
_GATHER_S = 0.010
# Items waiting for each lane from which on answers gather: nobody who hears later leaves a lane idle.
_ENOUGH = 2
# What a lane has in hand when the interpreter ends is done by then, or never.
_END_WITHIN_S = 10.0

_threads: WeakSet[threading.Thread] = WeakSet()


@atexit.register
def _let_threads_end() -> None:
    """Wait for those of closed batchers: a process aborts whose threads drop tensors while it ends."""
    give_up = time.monotonic() + _END_WITHIN_S
    for thread in list(_threads):
        thread.join(max(give_up - time.monotonic(), 0.0))


class Priority(IntEnum):
    """Whose turn it is first. A lower one waits for as long as there are higher ones."""

    LINE_STOP = 0
    AUDIT = 1
    BACKFILL = 2


class Patience(Enum):
    """How many may be ahead of one who comes."""

    NONE = "none"
    """``max_ahead`` of this kind or more urgent; of others, a turn each."""
    USUAL = "usual"
    """``max_queued``."""
    ENDLESS = "endless"
    """Any number: for callers who are few, and bounded themselves."""


@dataclass(frozen=True)
class BatchingPolicy:
    max_batch_size: int = 8
    max_wait_s: float = 0.002
    """Longest time the first item of a batch waits for companions."""
    max_queued: int = 64
    """Items with this many ahead of them are refused."""
    max_ahead: int = 0
    """Likewise of callers without patience; 0 is as many as the lanes take next."""
    lanes: int = 1
    """Batches at once."""
    preparing: int = 0
    """Threads that prepare items for the lanes; without any, each lane prepares its own."""


@dataclass(frozen=True)
class Answer(Generic[Result]):
    """What was computed for an item, and where its time went."""

    result: Result
    queued_s: float
    """Waiting, for its turn and for its batch."""
    prepared_s: float
    computed_s: float
    """Of the whole batch."""


@dataclass(eq=False)
class _Waiting(Generic[Item, Ready, Result]):
    """An item on its way; a thread that has taken it is the only one to change it."""

    item: Item | None
    caller: Hashable
    priority: Priority
    patience: Patience
    since: float
    deadline: float
    answer: "asyncio.Future[Answer[Result]]"
    line: "_Line[Item, Ready, Result] | None" = None
    """Where it waits; None while a thread has it, and when its caller has given it up."""
    ready: Any = None
    prepared_s: float = 0.0
    queued_s: float = 0.0

    def vain(self, takes_s: float) -> bool:
        """Whether nobody waits for it any more, or will once it has taken so long."""
        return self.answer.cancelled() or time.monotonic() + takes_s > self.deadline


_Outcome = tuple[list[_Waiting[Item, Ready, Result]], list[Answer[Result]] | Exception]


class _Line(Generic[Item, Ready, Result]):
    """Who waits, the urgent first, and among equals one of each caller in turn."""

    def __init__(self, most: float = math.inf) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._turns: list[OrderedDict[Hashable, deque[_Waiting[Item, Ready, Result]]]]
        self._turns = [OrderedDict() for _ in Priority]  # the caller whose turn is next comes first
        self._counts = [0] * len(Priority)
        self._closed = False

    @property
    def waiting(self) -> int:
        return sum(self._counts)

    @property
    def still(self) -> threading.Condition:
        """Held, nobody comes or goes; it costs less to hold it once around several calls."""
        return self._changed

    def put(self, waiting: _Waiting[Item, Ready, Result]) -> None:
        """Let it wait; blocks while ``most`` do."""
        with self._changed:
            while self.waiting >= self._most and not self._closed:
                self._changed.wait()
            waiting.line = self
            self._counts[waiting.priority] += 1
            self._turns[waiting.priority].setdefault(waiting.caller, deque()).append(waiting)
            self._wake()

    def leave(self, waiting: _Waiting[Item, Ready, Result]) -> None:
        """Let it go if it is still here."""
        with self._changed:
            if waiting.line is not self:
                return
            waiting.line = waiting.item = waiting.ready = None
            self._counts[waiting.priority] -= 1
            turns = self._turns[waiting.priority]
            turns[waiting.caller].remove(waiting)
            if not turns[waiting.caller]:
                del turns[waiting.caller]

    def ahead(self, caller: Hashable, priority: Priority) -> tuple[int, int]:
        """At most how many are taken before a newcomer, and how many but for equals who have patience."""
        with self._changed:
            urgent = sum(self._counts[:priority])
            turns = self._turns[priority]
            rounds = len(turns.get(caller, ())) + 1
            patient = hasty = 0
            for items in turns.values():
                before = min(len(items), rounds)
                if items[0].patience is Patience.NONE:
                    hasty += before
                else:
                    patient += before
            return urgent + patient + hasty, urgent + hasty

    def take(
        self, most: int, max_wait_s: float, before_waiting: Callable[[], None]
    ) -> list[_Waiting[Item, Ready, Result]]:
        """Wait for the first, then for up to ``most`` within ``max_wait_s``; empty means closed."""
        with self._changed:
            while not (batch := list(self._popped(most))) and not self._closed:
                before_waiting()
                self._changed.wait()
            closes = time.monotonic() + max_wait_s
            while batch and len(batch) < most and not self._closed:
                left_s = closes - time.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    break
                batch += self._popped(most - len(batch))
            if self._most < math.inf:
                self._wake()
            return batch

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _wake(self) -> None:
        if self._most == math.inf:
            self._changed.notify()
        else:  # some wait for room and some for items: one alone might be the wrong one
            self._changed.notify_all()

    def _popped(self, most: int) -> Iterator[_Waiting[Item, Ready, Result]]:
        for turns in self._turns:
            while turns and most:
                caller, items = turns.popitem(last=False)
                waiting = items.popleft()
                if items:
                    turns[caller] = items  # the next time round
                waiting.line = None
                self._counts[waiting.priority] -= 1
                most -= 1
                yield waiting


class Batcher(Generic[Item, Ready, Result]):
    """Items in, answers out; ``prepare`` and ``run_batch`` are called in threads of its own.

    Make it within the event loop that submits; it works until ``close``.
    """

    def __init__(
        self,
        prepare: Callable[[Item], Ready],
        run_batch: Callable[[Sequence[Ready]], Sequence[Result]],
        policy: BatchingPolicy,
        *,
        name: str = "batcher",
    ) -> None:
        self._prepare = prepare
        self._run_batch = run_batch
        self._policy = policy
        self._loop = asyncio.get_running_loop()
        self._arrived: _Line[Item, Ready, Result] = _Line()
        self._unanswered: set[asyncio.Future[Answer[Result]]] = set()
        self._most_ahead = {
            Patience.NONE: policy.max_ahead or policy.lanes * policy.max_batch_size,
            Patience.USUAL: policy.max_queued,
            Patience.ENDLESS: math.inf,
        }
        self._item_s = 0.0
        """Mean time of an item, all lanes together."""
        self._untold: deque[_Outcome[Item, Ready, Result]] = deque()
        self._woken_s = 0.0
        """When the event loop was last called."""
        prepared = self._arrived
        if policy.preparing:
            prepared = _Line(most=2 * policy.max_batch_size)
        self._lines = (self._arrived, prepared)
        work = [lambda: self._run_preparer(prepared)] * policy.preparing
        work += [lambda: self._run_lane(prepared)] * policy.lanes
        for number, target in enumerate(work):
            thread = threading.Thread(target=target, name=f"{name}-{number}", daemon=True)
            thread.start()
            _threads.add(thread)

    @property
    def waiting(self) -> int:
        """How many items no thread has taken yet."""
        return self._arrived.waiting

    async def submit(
        self,
        item: Item,
        *,
        caller: Hashable = None,
        priority: Priority = Priority.AUDIT,
        deadline: float = math.inf,
        patience: Patience = Patience.USUAL,
    ) -> Answer[Result]:
        """Return the answer for ``item``, computed together with its batch.

        Args:
            item: what ``prepare`` takes.
            caller: whose it is; among equals each has a turn before another has his second.
            priority: whose turn it is first.
            deadline: on ``time.monotonic()``'s clock; nothing is computed after it.
            patience: how many may be ahead.

        Raises:
            Overloaded: if more are ahead of it already than its patience allows.
            DeadlineExceeded: if the deadline cannot be kept, as far as is known at the door, or has passed.
            whatever ``prepare`` or ``run_batch`` raises.
        """
        self._settle()  # the event loop is awake already
        answer: asyncio.Future[Answer[Result]] = self._loop.create_future()
        waiting: _Waiting[Item, Ready, Result] = _Waiting(
            item, caller, priority, patience, time.monotonic(), deadline, answer
        )
        with self._arrived.still:
            self._check(waiting)
            self._unanswered.add(answer)
            self._arrived.put(waiting)
        try:
            return await answer
        finally:
            self._unanswered.discard(answer)
            if (line := waiting.line) is not None:
                line.leave(waiting)

    def close(self) -> None:
        """End after the batches that are being computed, and cancel everyone else."""
        for line in self._lines:
            line.close()
        self._settle()
        for answer in list(self._unanswered):
            answer.cancel()

    def _check(self, waiting: _Waiting[Item, Ready, Result]) -> None:
        """Refuse what would come too late, or has more ahead of it than its patience allows."""
        ahead, hasty = self._arrived.ahead(waiting.caller, waiting.priority)
        # The lanes have something in hand, and then its own time begins: twice one item in each.
        wait_s = (ahead + 2 * self._policy.lanes) * self._item_s
        left_s = waiting.deadline - waiting.since
        # With nobody ahead there is nothing to go by but old times: let it try.
        if left_s < 0 or (ahead and wait_s > left_s):
            raise DeadlineExceeded(
                f"it would take about {wait_s:.2f} s, but only {max(left_s, 0):.2f} s are left; "
                "allow more time, or send less",
                retry_after_s=wait_s,
            )
        counted, cure = ahead, "raise BLEMISH_MAX_QUEUED"
        if waiting.patience is Patience.NONE:
            counted, cure = hasty, "send less"
        if counted >= self._most_ahead[waiting.patience]:
            raise Overloaded(
                f"{counted} images wait already; retry later, or {cure}",
                retry_after_s=max(wait_s, 0.1),
            )

    def _run_preparer(self, prepared: _Line[Item, Ready, Result]) -> None:
        while batch := self._arrived.take(1, 0, self._wake):
            for waiting in self._prepared(batch):
                prepared.put(waiting)

    def _run_lane(self, line: _Line[Item, Ready, Result]) -> None:
        while batch := line.take(self._policy.max_batch_size, self._policy.max_wait_s, self._wake):
            began = time.monotonic()
            if line is self._arrived:
                batch = self._prepared(batch)
            # Once more before the device: preparing took its time.
            if batch := self._wanted(batch):
                self._compute(batch)
                share_s = (time.monotonic() - began) / len(batch) / self._policy.lanes
                self._item_s += _NEW_SHARE * (share_s - self._item_s) if self._item_s else share_s

    def _prepared(self, batch: list[_Waiting[Item, Ready, Result]]) -> list[_Waiting[Item, Ready, Result]]:
        """Prepare each; the failure of one is its own."""
        done = []
        for waiting in self._wanted(batch):
            began = time.monotonic()
            waiting.queued_s = began - waiting.since
            try:
                assert waiting.item is not None  # only ``leave`` forgets it, before it was taken
                waiting.ready = self._prepare(waiting.item)
            except Exception as error:
                self._tell([waiting], error)
                continue
            waiting.item = None  # from here on it is as large as its input
            waiting.since = time.monotonic()
            waiting.prepared_s = waiting.since - began
            done.append(waiting)
        return done

    def _wanted(self, batch: list[_Waiting[Item, Ready, Result]]) -> list[_Waiting[Item, Ready, Result]]:
        """Those who still wait. Nothing is spent on a caller who has left, or would be told too late."""
        # What an item takes is known from others: where nobody else waits let it try, or a slow one would
        # have all those after it refused for ever.
        takes_s = self._item_s * self._policy.lanes if self._arrived.waiting else 0.0
        late = [waiting for waiting in batch if waiting.vain(takes_s)]
        if late:
            self._tell(
                late, DeadlineExceeded("the deadline passed while it waited; allow more time, or send less")
            )
        return [waiting for waiting in batch if waiting not in late]

    def _compute(self, batch: list[_Waiting[Item, Ready, Result]]) -> None:
        began = time.monotonic()
        for waiting in batch:
            waiting.queued_s += began - waiting.since
        try:
            results = self._run_batch([waiting.ready for waiting in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(batch)} items got {len(results)} answers; this is a bug")
        except Exception as error:
            # The failure belongs to this batch; the next one starts afresh.
            self._tell(batch, error)
            return
        computed_s = time.monotonic() - began
        self._tell(
            batch,
            [
                Answer(result, waiting.queued_s, waiting.prepared_s, computed_s)
                for waiting, result in zip(batch, results, strict=True)
            ],
        )

    def _tell(
        self, batch: list[_Waiting[Item, Ready, Result]], outcome: list[Answer[Result]] | Exception
    ) -> None:
        """Hand an outcome to the event loop, now or with the next one."""
        self._untold.append((batch, outcome))
        if not self._may_gather(batch):
            self._wake()

    def _may_gather(self, batch: list[_Waiting[Item, Ready, Result]]) -> bool:
        """Whether an outcome may wait for the next one, of whichever lane: that is to come soon."""
        now = time.monotonic()
        busy = self._arrived.waiting >= _ENOUGH * self._policy.lanes
        soon = now < self._woken_s + _GATHER_S and 0 < self._item_s <= 2 * _GATHER_S
        return (
            busy
            and soon
            and all(
                one.priority > Priority.LINE_STOP and one.deadline > now + 2 * _GATHER_S for one in batch
            )
        )

    def _wake(self) -> None:
        """Have the event loop tell what is untold, unless it has ended."""
        if self._untold:
            self._woken_s = time.monotonic()
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        """Tell what is untold; in the event loop."""
        while self._untold:
            batch, outcome = self._untold.popleft()
            for number, waiting in enumerate(batch):
                if waiting.answer.done():
                    continue
                if isinstance(outcome, Exception):
                    waiting.answer.set_exception(outcome)
                else:
                    waiting.answer.set_result(outcome[number])
