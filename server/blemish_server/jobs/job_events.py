# SPDX-License-Identifier: Apache-2.0
"""Streams of a job's changes and log lines to any number of subscribers, from one reader of Redis."""

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
from blemish_core.platform import redis_address
from blemish_core.platform.errors import InvalidRequest, ServerStopping
from blemish_core.platform.redis_address import RedisAddress
from blemish_server.converters.jobs import ENDED, job_to_proto, log_line_to_proto

_RECHECK_INTERVAL_S = 10.0
_MAX_PENDING = 1000
_MAX_LINES = 500


class JobEvents:
    """The events of all jobs that clients watch."""

    def __init__(self, store: JobStore, redis_url: str) -> None:
        self._store = store
        self._redis: redis.asyncio.Redis = RedisAddress.parse(redis_url).async_client(
            socket_connect_timeout=2, socket_timeout=15
        )
        self._topics: dict[str, JobTopic] = {}
        self._stopping = False

    async def watch(
        self, id: str, after_revision: int | None = None, after_line: str | None = None
    ) -> AsyncIterator[pb.WatchJobResponse]:
        """Yield the job as it is, then after every change, until it has ended.

        Args:
            id: id of the job.
            after_revision: if given, first yield the job after each recorded change since this revision.
            after_line: if given, also yield the log lines after this one; all lines if empty.

        Raises:
            InvalidRequest: if ``after_line`` is not the id of a line.
            NotFound: if there is no such job.
            Unavailable: if Redis does not respond.
            ServerStopping: if the server stops before the job ends.
        """
        subscriber = Subscriber(self._store, id, after_line)
        # Subscribe before reading the job, so that no update falls between.
        topic = self._topics.setdefault(id, JobTopic())
        topic.subscribers.add(subscriber)
        try:
            job, replayed = await subscriber.start(after_revision)
            topic.update(job)
            for each in replayed:
                yield pb.WatchJobResponse(job=job_to_proto(each))
            while True:
                async for response in subscriber.pending():
                    yield response
                if subscriber.finished:
                    return
                if self._stopping:
                    raise ServerStopping
                with suppress(TimeoutError):
                    await asyncio.wait_for(subscriber.ready.wait(), _RECHECK_INTERVAL_S)
                    continue
                # Read the store in any case: a stream that Redis lost delivers no updates.
                subscriber.invalidate()
        finally:
            topic.subscribers.discard(subscriber)
            if not topic.subscribers:
                self._topics.pop(id, None)

    async def run(self) -> None:
        """Read the stream of job updates until cancelled."""
        last = b""
        while True:
            try:
                last = last or await self._newest()
                response: Any = await self._redis.xread({UPDATES_KEY: last}, block=5000, count=1000)
            except (RedisError, OSError):
                # Updates may have been missed: let every subscriber read the store.
                last = b""
                for topic in self._topics.values():
                    topic.invalidate()
                await asyncio.sleep(1)
                continue
            for _, entries in response or ():
                last = entries[-1][0]
                for _, fields in entries:
                    if watched := self._topics.get(fields[b"job"].decode()):
                        watched.publish(parse_update(fields))

    def stop(self) -> None:
        """End every stream, because the server is stopping."""
        self._stopping = True
        for topic in self._topics.values():
            for subscriber in topic.subscribers:
                subscriber.ready.set()

    async def close(self) -> None:
        await redis_address.close(self._redis)

    async def _newest(self) -> bytes:
        newest: Any = await self._redis.xrevrange(UPDATES_KEY, count=1)
        return bytes(newest[0][0]) if newest else b"0-0"


class JobTopic:
    """A job with subscribers. Its updates are converted once for all of them."""

    def __init__(self) -> None:
        self.subscribers: set[Subscriber] = set()
        self._job: Job | None = None

    def update(self, job: Job) -> None:
        """Remember the job as a subscriber read it; later changes apply to it."""
        if self._job is None or self._job.revision < job.revision:
            self._job = job

    def publish(self, update: JobUpdate) -> None:
        """Send an update to the subscribers."""
        if update.line is not None:
            for subscriber in self.subscribers:
                subscriber.add_line(update.line)
        if update.change is None or (self._job and update.change.revision <= self._job.revision):
            return
        self._job = update.change.apply_to(self._job)
        if self._job is None:
            self.invalidate()  # subscribers read the store until the next complete change
            return
        response = pb.WatchJobResponse(job=job_to_proto(self._job))
        for subscriber in self.subscribers:
            subscriber.add(response)

    def invalidate(self) -> None:
        """Let every subscriber read the store, because updates may have been missed."""
        self._job = None
        for subscriber in self.subscribers:
            subscriber.invalidate()


class Subscriber:
    """The state of one stream: what was sent of a job, and what is pending."""

    def __init__(self, store: JobStore, id: str, after_line: str | None) -> None:
        self.ready = asyncio.Event()
        """Set while there is something to send."""
        self._store = store
        self._id = id
        self._revision = 0
        self._has_ended = False
        self._line = _parse_line_id(after_line or "0-0") if after_line is not None else None
        self._pending: deque[pb.WatchJobResponse] = deque()
        self._is_stale = False
        """True if updates may have been missed, so that the store has to be read."""

    @property
    def finished(self) -> bool:
        """True once everything was sent and no update will follow."""
        return self._has_ended and not self._is_stale

    def add_line(self, line: LogLine) -> None:
        """Add a log line, if the client requested the log."""
        if self._line is not None:
            self.add(pb.WatchJobResponse(lines=[log_line_to_proto(line)]))

    def add(self, response: pb.WatchJobResponse) -> None:
        """Add a response to send; a client that is too slow gets the latest state instead."""
        if len(self._pending) >= _MAX_PENDING:
            self.invalidate()
        else:
            self._pending.append(response)
            self.ready.set()

    def invalidate(self) -> None:
        """Replace what is pending by the state in the store."""
        self._pending.clear()
        self._is_stale = True
        self.ready.set()

    async def start(self, after_revision: int | None) -> tuple[Job, list[Job]]:
        """Return the job as it is, and its states to send first, oldest first."""
        job = await asyncio.to_thread(self._store.get, self._id)
        self._is_stale = self._line is not None  # to send the existing lines
        self._note_sent(job.revision, job.state.ended)
        if after_revision is None:
            return job, [job]
        changes = await asyncio.to_thread(self._store.changes, self._id)
        before = [each for each in _replayed(changes) if after_revision < each.revision < job.revision]
        return job, [*before, *([job] if job.revision > after_revision else [])]

    async def pending(self) -> AsyncIterator[pb.WatchJobResponse]:
        """Yield the responses that were not sent yet."""
        self.ready.clear()
        while self._pending or self._is_stale:
            if self._is_stale:
                self._is_stale = False
                async for response in self._read_store():
                    yield response
                continue
            response = self._pending.popleft()
            if response.HasField("job"):
                if response.job.revision > self._revision:
                    self._note_sent(response.job.revision, response.job.state in ENDED)
                    yield response
            elif self._is_new(response.lines[0]):
                yield response

    async def _read_store(self) -> AsyncIterator[pb.WatchJobResponse]:
        job = await asyncio.to_thread(self._store.get, self._id)
        if self._line is not None:
            after = f"{self._line[0]}-{self._line[1]}"
            # After the job: the log of an ended job is complete.
            lines = await asyncio.to_thread(self._store.read_log, self._id, after)
            new = [line for line in map(log_line_to_proto, lines) if self._is_new(line)]
            for start in range(0, len(new), _MAX_LINES):
                yield pb.WatchJobResponse(lines=new[start : start + _MAX_LINES])
        if job.revision > self._revision:
            self._note_sent(job.revision, job.state.ended)
            yield pb.WatchJobResponse(job=job_to_proto(job))

    def _note_sent(self, revision: int, ended: bool) -> None:
        self._revision = revision
        if ended and not self._has_ended:
            self._has_ended = True
            self._is_stale = self._line is not None  # to send the last lines

    def _is_new(self, line: pb.LogLine) -> bool:
        position = _parse_line_id(line.id)
        if self._line is None or position <= self._line:
            return False
        self._line = position
        return True


def _replayed(changes: Iterable[JobChange]) -> Iterator[Job]:
    """Yield the job after each change, from the first complete one on."""
    job: Job | None = None
    for change in changes:
        job = change.apply_to(job)
        if job is not None:
            yield job


def _parse_line_id(id: str) -> tuple[int, int]:
    """Return the position of a line in its log.

    Raises:
        InvalidRequest: if ``id`` is not the id of a line.
    """
    time, _, number = id.partition("-")
    if not (time.isdecimal() and number.isdecimal()):
        raise InvalidRequest(
            f"{id!r} is not the id of a log line; use one from LogLine.id", field="after_line"
        )
    return int(time), int(number)
