# SPDX-License-Identifier: Apache-2.0
"""What becomes of jobs and what they write, for any number of watchers from one reader of Redis."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from blemish.v1 import job_pb2 as pb
from blemish_core.jobs.record import Job
from blemish_core.jobs.store import UPDATES_KEY, JobChange, JobStore, JobUpdate, LogLine, parse_update
from blemish_core.platform.errors import InvalidRequest, ServerStopping
from blemish_server.converters.jobs import ENDED, job_to_proto, log_line_to_proto

_RECHECK_S = 10.0
_MAX_WAITING = 1000
_MAX_LINES = 500


class JobEvents:
    def __init__(self, store: JobStore, redis_url: str) -> None:
        self._store = store
        self._redis: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
            redis_url, socket_connect_timeout=2, socket_timeout=15
        )
        self._watched: dict[str, _Watched] = {}
        self._ending = False

    async def watch(
        self, id: str, after_revision: int | None = None, after_line: str | None = None
    ) -> AsyncIterator[pb.WatchJobResponse]:
        """Yield the job as it is, then after every change, until it has ended.

        Args:
            id: the job's.
            after_revision: if given, yield first what it was after each kept change since then.
            after_line: if given, yield the lines of its log too, those after this one; all if empty.

        Raises:
            InvalidRequest: if ``after_line`` is no line's id.
            NotFound: if there is no such job.
            Unavailable: if Redis does not answer.
            ServerStopping: if the server ends before the job.
        """
        watcher = _Watcher(self._store, id, after_line)
        # Before the first look, that nothing falls in between.
        watched = self._watched.setdefault(id, _Watched())
        watched.watchers.add(watcher)
        try:
            now, jobs = await watcher.begin(after_revision)
            watched.know(now)
            for job in jobs:
                yield pb.WatchJobResponse(job=job_to_proto(job))
            while True:
                async for answer in watcher.rest():
                    yield answer
                if watcher.ended:
                    return
                if self._ending:
                    raise ServerStopping
                # Looked at now and then in any case: a stream that Redis lost tells nothing.
                with suppress(TimeoutError):
                    await asyncio.wait_for(watcher.news.wait(), _RECHECK_S)
                    continue
                watcher.lose()
        finally:
            watched.watchers.discard(watcher)
            if not watched.watchers:
                self._watched.pop(id, None)

    async def run(self) -> None:
        """Read the stream of news until cancelled."""
        last = b""
        while True:
            try:
                last = last or await self._newest()
                answer: Any = await self._redis.xread({UPDATES_KEY: last}, block=5000, count=1000)
            except (RedisError, OSError):
                # What was told meanwhile is unknown: everybody looks again.
                last = b""
                for watched in self._watched.values():
                    watched.lose()
                await asyncio.sleep(1)
                continue
            for _, entries in answer or ():
                last = entries[-1][0]
                for _, fields in entries:
                    if some := self._watched.get(fields[b"job"].decode()):
                        some.hear(parse_update(fields))

    def end(self) -> None:
        """Tell every watcher that the server is ending."""
        self._ending = True
        for watched in self._watched.values():
            for watcher in watched.watchers:
                watcher.news.set()

    async def close(self) -> None:
        await self._redis.aclose()

    async def _newest(self) -> bytes:
        newest: Any = await self._redis.xrevrange(UPDATES_KEY, count=1)
        return bytes(newest[0][0]) if newest else b"0-0"


class _Watched:
    """A job that is watched: what is told of it is put into a message once, for all its watchers."""

    def __init__(self) -> None:
        self.watchers: set[_Watcher] = set()
        self._job: Job | None = None

    def know(self, job: Job) -> None:
        """What a watcher has just found; what is told next follows from it."""
        if self._job is None or self._job.revision < job.revision:
            self._job = job

    def hear(self, told: JobUpdate) -> None:
        if told.line is not None:
            for watcher in self.watchers:
                watcher.hear_line(told.line)
        if told.change is None or (self._job and told.change.revision <= self._job.revision):
            return
        self._job = told.change.apply_to(self._job)
        if self._job is None:
            self.lose()  # till the next change that holds all, each watcher has to ask
            return
        answer = pb.WatchJobResponse(job=job_to_proto(self._job))
        for watcher in self.watchers:
            watcher.hear_job(answer)

    def lose(self) -> None:
        self._job = None
        for watcher in self.watchers:
            watcher.lose()


class _Watcher:
    """What one watcher has been told of a job, and what not yet."""

    def __init__(self, store: JobStore, id: str, after_line: str | None) -> None:
        self.news = asyncio.Event()
        self._store = store
        self._id = id
        self._revision = 0
        self._has_ended = False
        self._line = _place(after_line or "0-0") if after_line is not None else None
        self._waiting: deque[pb.WatchJobResponse] = deque()
        self._lost = False
        """Whether news may have been missed, so that the store has to be asked."""

    @property
    def ended(self) -> bool:
        """Whether there will be no more news."""
        return self._has_ended and not self._lost

    def hear_job(self, answer: pb.WatchJobResponse) -> None:
        self._hear(answer)

    def hear_line(self, line: LogLine) -> None:
        if self._line is not None:
            self._hear(pb.WatchJobResponse(lines=[log_line_to_proto(line)]))

    def _hear(self, answer: pb.WatchJobResponse) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            self.lose()
        else:
            self._waiting.append(answer)
            self.news.set()

    def lose(self) -> None:
        self._waiting.clear()
        self._lost = True
        self.news.set()

    async def begin(self, after_revision: int | None) -> tuple[Job, list[Job]]:
        """Return the job as it is, and what to tell of it: that, or each kept change since a revision."""
        job = await asyncio.to_thread(self._store.get, self._id)
        self._lost = self._line is not None  # for the lines so far
        self._told(job.revision, job.state.ended)
        if after_revision is None:
            return job, [job]
        changes = await asyncio.to_thread(self._store.changes, self._id)
        before = [each for each in _replayed(changes) if after_revision < each.revision < job.revision]
        return job, [*before, *([job] if job.revision > after_revision else [])]

    async def rest(self) -> AsyncIterator[pb.WatchJobResponse]:
        """Yield what the watcher does not know yet."""
        self.news.clear()
        while self._waiting or self._lost:
            if self._lost:
                self._lost = False
                async for answer in self._asked():
                    yield answer
                continue
            answer = self._waiting.popleft()
            if answer.HasField("job"):
                if answer.job.revision > self._revision:
                    self._told(answer.job.revision, answer.job.state in ENDED)
                    yield answer
            elif self._is_new(answer.lines[0]):
                yield answer

    async def _asked(self) -> AsyncIterator[pb.WatchJobResponse]:
        """Ask the store, which knows all."""
        job = await asyncio.to_thread(self._store.get, self._id)
        if self._line is not None:
            after = f"{self._line[0]}-{self._line[1]}"
            # After the job: what it wrote before it ended is in the log by then.
            lines = await asyncio.to_thread(self._store.read_log, self._id, after)
            new = [line for line in map(log_line_to_proto, lines) if self._is_new(line)]
            for start in range(0, len(new), _MAX_LINES):
                yield pb.WatchJobResponse(lines=new[start : start + _MAX_LINES])
        if job.revision > self._revision:
            self._told(job.revision, job.state.ended)
            yield pb.WatchJobResponse(job=job_to_proto(job))

    def _told(self, revision: int, ended: bool) -> None:
        self._revision = revision
        if ended and not self._has_ended:
            self._has_ended = True
            # For the last lines of its log.
            self._lost = self._line is not None

    def _is_new(self, line: pb.LogLine) -> bool:
        place = _place(line.id)
        if self._line is None or place <= self._line:
            return False
        self._line = place
        return True


def _replayed(changes: Iterable[JobChange]) -> Iterator[Job]:
    """The job after each change, as far as they follow from each other."""
    job: Job | None = None
    for change in changes:
        job = change.apply_to(job)
        if job is not None:
            yield job


def _place(line: str) -> tuple[int, int]:
    """Where in its log a line is.

    Raises:
        InvalidRequest: if ``line`` is no line's id.
    """
    at, _, number = line.partition("-")
    if not (at.isdecimal() and number.isdecimal()):
        raise InvalidRequest(f"{line!r} is the id of no line", field="after_line")
    return int(at), int(number)
