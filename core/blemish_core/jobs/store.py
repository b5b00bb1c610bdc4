# SPDX-License-Identifier: Apache-2.0
"""Job records in Redis, changed by compare-and-set; every change is told on one stream.

=============================  ==================================================================
``blemish:job:{id}``           the record, JSON
``blemish:jobs``               sorted set of ids by time of creation
``blemish:request:{hash}``     the job that a request_id made, and the fingerprint of the request
``blemish:lease:{id}``         the attempt that works on it; gone 15 s after its worker is
``blemish:changes``            stream of the ids of changed jobs, the newest 10,000
=============================  ==================================================================
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, WatchError
from redis.exceptions import TimeoutError as TimedOut

from blemish_core.errors import AlreadyExists, InvalidRequest, NotFound, Unavailable
from blemish_core.jobs.record import Event, Job, JobState, Spec, now

CHANGES = "blemish:changes"
_JOBS = "blemish:jobs"
_LEASE_MS = 15_000
_MAX_REQUEST_ID = 128
_ASKED = "asked to end"


class JobStore:
    """The jobs of one Redis. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    @classmethod
    def connect(cls, url: str) -> "JobStore":
        """Prepare a connection; nothing is sent before the first call."""
        client = redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=5)
        return cls(client)

    def ping(self) -> None:
        """Raise Unavailable unless Redis answers."""
        with _translated():
            self._redis.ping()

    def create(
        self, asked: Spec, request_id: str = "", settle: Callable[[Spec], Spec] = lambda spec: spec
    ) -> tuple[Job, bool]:
        """Write a new job, or find the one that the same request made before, as one step.

        ``settle`` turns what was asked for into what is to be done, or raises; a request that made a job
        before is not settled again, so that it stays the same whatever was promoted meanwhile.

        Returns the job and whether it is new.

        Raises:
            AlreadyExists: if ``request_id`` was used for another request.
            InvalidRequest: if it is too long.
        """
        claim = _claim_key(request_id) if request_id else None
        fingerprint = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
        with _translated(), self._redis.pipeline(transaction=True) as pipe:
            while True:
                try:
                    if claim:
                        pipe.watch(claim)  # type: ignore[no-untyped-call]  # redis-py left it so
                        if held := _text(pipe.get(claim)):
                            return self._claimed(request_id, held, fingerprint), False
                    job = _accepted(settle(asked))
                    pipe.multi()
                    if claim:
                        pipe.set(claim, f"{job.id} {fingerprint}")
                    pipe.set(_key(job.id), job.model_dump_json())
                    pipe.zadd(_JOBS, {job.id: job.created.timestamp()})
                    pipe.xadd(CHANGES, {"job": job.id}, maxlen=10_000, approximate=True)
                    pipe.execute()
                    return job, True
                except WatchError:
                    continue

    def _claimed(self, request_id: str, held: str, fingerprint: str) -> Job:
        """Return the job that ``request_id`` made."""
        id, known_fingerprint = held.split()
        if known_fingerprint != fingerprint:
            raise AlreadyExists(
                f"request_id {request_id!r} made jobs/{id}, which asks for something else; "
                "take a new request_id"
            )
        return self.get(id)

    def get(self, id: str) -> Job:
        """Read a job.

        Raises:
            NotFound: if there is none.
        """
        with _translated():
            record = self._redis.get(_key(id))
        if record is None:
            raise NotFound(f"there is no job {id!r}; `blemish jobs` lists them")
        return Job.model_validate_json(record)

    def page(self, before: str = "", limit: int = 100, states: Sequence[JobState] = ()) -> list[Job]:
        """Jobs, newest first, those made before job ``before``."""
        found: list[Job] = []
        with _translated():
            rank: Any = self._redis.zrevrank(_JOBS, before) if before else None
            start = 0 if rank is None else rank + 1
            while len(found) < limit:
                ids = self._redis.zrevrange(_JOBS, start, start + 99)
                if not ids:
                    break
                start += len(ids)
                records = self._redis.mget([_key(_text(id)) for id in ids])
                jobs = [Job.model_validate_json(record) for record in records if record]
                found += [job for job in jobs if not states or job.state in states]
        return found[:limit]

    def change(self, id: str, change: Callable[[Job], Job]) -> Job:
        """Replace a job's record by what ``change`` makes of it, as one step.

        ``change`` may run more than once, raises to leave the record alone, and returns its argument if
        there is nothing to change.

        Raises:
            NotFound: if there is no such job.
        """
        key = _key(id)
        with _translated(), self._redis.pipeline(transaction=True) as pipe:
            while True:
                try:
                    pipe.watch(key)  # type: ignore[no-untyped-call]  # redis-py left it so
                    record = pipe.get(key)
                    if record is None:
                        raise NotFound(f"there is no job {id!r}; `blemish jobs` lists them")
                    before = Job.model_validate_json(record)
                    after = change(before)
                    if after == before:
                        return before
                    after = after.model_copy(update={"revision": before.revision + 1})
                    pipe.multi()
                    pipe.set(key, after.model_dump_json())
                    pipe.xadd(CHANGES, {"job": id}, maxlen=10_000, approximate=True)
                    pipe.execute()
                    return after
                except WatchError:
                    continue

    def cancel(self, id: str) -> Job:
        """Ask a job to end: at once if it waits, soon if it runs, not at all if it has ended."""

        def move(job: Job) -> Job:
            if job.state is JobState.QUEUED:
                return job.moved(JobState.CANCELLED, why=_ASKED)
            if job.state is JobState.RUNNING:
                return job.moved(JobState.CANCELLING, why=_ASKED)
            return job

        return self.change(id, move)

    def take_lease(self, id: str, holder: str) -> bool:
        """Claim the right to work on a job, for 15 s from the last call."""
        key = f"blemish:lease:{id}"
        with _translated():
            if self._redis.set(key, holder, nx=True, px=_LEASE_MS):
                return True
            if _text(self._redis.get(key)) != holder:
                return False
            return bool(self._redis.pexpire(key, _LEASE_MS))

    def drop_lease(self, id: str, holder: str) -> None:
        key = f"blemish:lease:{id}"
        with _translated():
            if _text(self._redis.get(key)) == holder:
                self._redis.delete(key)


def _accepted(spec: Spec) -> Job:
    moment = now()
    event = Event(to=JobState.QUEUED, at=moment)
    return Job(id=uuid4().hex[:16], spec=spec, created=moment, history=(event,))


def _claim_key(request_id: str) -> str:
    if len(request_id) > _MAX_REQUEST_ID:
        raise InvalidRequest(
            f"request_id has {len(request_id)} characters, at most {_MAX_REQUEST_ID} are allowed",
            field="request_id",
        )
    return f"blemish:request:{hashlib.sha256(request_id.encode()).hexdigest()}"


def _key(id: str) -> str:
    return f"blemish:job:{id}"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (ConnectionLost, TimedOut) as error:
        raise Unavailable(
            "Redis does not answer: jobs wait until it is back; check REDIS_URL", dependency="redis"
        ) from error
    except WatchError:
        raise
    except RedisError as error:
        # It answers, but not with what was asked for: loading after a restart, out of memory, read only.
        raise Unavailable(f"Redis refuses: {error}", dependency="redis") from error
