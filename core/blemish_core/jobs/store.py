# SPDX-License-Identifier: Apache-2.0
"""The job records in Redis. Each change is a compare-and-set and is published to a stream.

- ``blemish:job:{id}``: the record, JSON
- ``blemish:jobs``: sorted set of all ids by creation time
- ``blemish:open``: sorted set of the ids of unfinished jobs by creation time
- ``blemish:request:{hash}``: the job created by a request id, and the request's fingerprint
- ``blemish:lease:{name}``: the holder of a lease; expires after 15 s
- ``blemish:changes:{id}``: stream of a job's changes by revision, the newest 20,000
- ``blemish:log:{id}``: stream of a job's log, the newest 5,000 lines
- ``blemish:news``: stream of the entries of both streams for all jobs, the newest 10,000
- ``blemish:parts:{id}``: hash of the state of a bulk job's shards; see ``shards``
- ``blemish:ended``: hash of the number of jobs ever ended by kind and state
- ``blemish:paces``: hash of the phase durations of the last job of each pattern
- ``blemish:claim:{name}``: a claim on a task that only one process should do; expires
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import redis
from pydantic import BaseModel, ConfigDict, TypeAdapter
from redis.exceptions import WatchError

from blemish_core.jobs.record import (
    REQUESTED_BY,
    Event,
    Job,
    JobPriority,
    JobState,
    Limits,
    Phase,
    Spec,
    now,
)
from blemish_core.platform.errors import AlreadyExists, InvalidRequest, NotFound
from blemish_core.platform.redis_address import RedisAddress
from blemish_core.platform.redis_check import redis_errors_as_unavailable

UPDATES_KEY = "blemish:news"
"""Key of the stream of job updates."""

LEASE_S = 15.0
_JOBS, _OPEN, _ENDED = "blemish:jobs", "blemish:open", "blemish:ended"
_REQUEST = "blemish:request:"
_PACES = "blemish:paces"
_SECONDS = TypeAdapter(dict[str, float])
_MAX_REQUEST_ID = 128
_MAX_LINE = 2000
_CANCELLATION = "cancellation requested"

# KEYS: record, changes, updates, open, ended.
# ARGV: record before, record after, change, id, revision, kind and state if the job ends.
# The XADD to the changes is a pcall, because the stream may already hold the revision: after a
# crash of Redis the record can be older than the stream.
_CHANGE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', 20000, ARGV[5] .. '-0', 'change', ARGV[3])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 10000, '*', 'job', ARGV[4], 'change', ARGV[3])
if ARGV[6] ~= '' then
  redis.call('ZREM', KEYS[4], ARGV[4])
  redis.call('HINCRBY', KEYS[5], ARGV[6], 1)
end
return 1
"""


class JobChange(BaseModel):
    """A change of a job: the progress of one phase, or a new record."""

    model_config = ConfigDict(frozen=True)

    revision: int
    phase: Phase | None = None
    job: Job | None = None
    """New record; None if only ``phase`` changed."""

    @classmethod
    def between(cls, before: Job, after: Job) -> "JobChange":
        """Return the smallest change that leads from one record to another."""
        changed = [phase for phase in after.phases if phase not in before.phases]
        if (
            len(changed) == 1
            and before.with_phase(changed[0]).model_copy(update={"revision": after.revision}) == after
        ):
            return cls(revision=after.revision, phase=changed[0])
        return cls(revision=after.revision, job=after)

    def apply_to(self, to: Job | None) -> Job | None:
        """Return the record after this change; None if ``to`` is not its predecessor."""
        if self.job is not None:
            return self.job
        if to is None or self.phase is None or self.revision != to.revision + 1:
            return None
        return to.with_phase(self.phase).model_copy(update={"revision": self.revision})


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log."""

    id: str
    """Position in the log; lines sort by it."""
    text: str


@dataclass(frozen=True)
class JobUpdate:
    """An entry of the stream of updates: a change of a job or a line of its log."""

    job: str
    change: JobChange | None = None
    line: LogLine | None = None


class JobStore:
    """The jobs of one Redis. Safe to share between threads."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._change = client.register_script(_CHANGE)

    @classmethod
    def connect(cls, url: str) -> "JobStore":
        """Create a store whose connection opens at the first call."""
        return cls(RedisAddress.parse(url).client(socket_connect_timeout=2, socket_timeout=5))

    def ping(self) -> None:
        """Check that Redis answers.

        Raises:
            Unavailable: if it does not.
        """
        with redis_errors_as_unavailable():
            self._redis.ping()

    def create(
        self,
        spec: Spec,
        request_id: str = "",
        resolve: Callable[[Spec], Spec] = lambda spec: spec,
        priority: JobPriority = JobPriority.NORMAL,
        limits: Limits | None = None,
        by: str = "",
    ) -> tuple[Job, bool]:
        """Create a job, or find the one that the same request created earlier, in one atomic step.

        Args:
            spec: specification as requested.
            request_id: idempotency key; empty for none.
            resolve: validates a new specification and fixes its model to a version. A repeated request
                skips it, so its job stays the same after a promotion.
            priority: priority among queued jobs.
            limits: resource limits of each attempt.
            by: name of the caller, for the history.

        Returns:
            The job, and True if it is new.

        Raises:
            AlreadyExists: if ``request_id`` was used for another request.
            InvalidRequest: if it is too long.
            Unavailable: if Redis does not answer.
        """
        limits = limits or Limits()
        request = _request_hash(request_id) if request_id else ""
        claim = f"{_REQUEST}{request}" if request else None
        fingerprint = _fingerprint(spec, priority, limits)
        with redis_errors_as_unavailable(), self._redis.pipeline(transaction=True) as pipe:
            while True:
                try:
                    if claim:
                        pipe.watch(claim)  # type: ignore[no-untyped-call]  # not typed in redis-py
                        if held := _text(pipe.get(claim)):
                            return self._existing(request_id, held, fingerprint, spec), False
                    job = _new_job(resolve(spec), priority, limits, request, by)
                    change = JobChange(revision=job.revision, job=job).model_dump_json(exclude_none=True)
                    update: Any = {"job": job.id, "change": change}
                    pipe.multi()
                    if claim:
                        pipe.set(claim, f"{job.id} {fingerprint}")
                    pipe.set(_key(job.id), job.model_dump_json())
                    pipe.zadd(_JOBS, {job.id: job.created.timestamp()})
                    pipe.zadd(_OPEN, {job.id: job.created.timestamp()})
                    pipe.xadd(_changes_key(job.id), {"change": change}, id=f"{job.revision}-0")
                    pipe.xadd(UPDATES_KEY, update, maxlen=10_000, approximate=True)
                    pipe.execute()
                    return job, True
                except WatchError:
                    continue

    def _existing(self, request_id: str, held: str, fingerprint: str, spec: Spec) -> Job:
        """Return the job that ``request_id`` created, if its request was the same."""
        id, known_fingerprint = held.split()
        job = self.get(id)
        if known_fingerprint != fingerprint:
            raise AlreadyExists(
                f"request_id {request_id!r} already created jobs/{id} from a different request; "
                f"use a new request_id. {_difference(job.spec, spec)}"
            )
        return job

    def get(self, id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: if there is no such job.
            Unavailable: if Redis does not answer.
        """
        with redis_errors_as_unavailable():
            record = self._redis.get(_key(id))
        if record is None:
            raise _not_found(id)
        return Job.model_validate_json(record)

    def page(self, before: str = "", limit: int = 100, states: Sequence[JobState] = ()) -> list[Job]:
        """Return jobs created before job ``before``, newest first."""
        found: list[Job] = []
        with redis_errors_as_unavailable():
            rank: Any = self._redis.zrevrank(_JOBS, before) if before else None
            start = 0 if rank is None else rank + 1
            while len(found) < limit:
                ids = self._redis.zrevrange(_JOBS, start, start + 99)
                if not ids:
                    break
                start += len(ids)
                found += [job for job in self._read(ids) if not states or job.state in states]
        return found[:limit]

    def unfinished(self) -> list[Job]:
        """Return all jobs that have not ended, oldest first."""
        with redis_errors_as_unavailable():
            jobs = self._read(self._redis.zrange(_OPEN, 0, -1))
            # A worker of an older build ends jobs without removing them from this set.
            if ended := [job.id for job in jobs if job.state.ended]:
                self._redis.zrem(_OPEN, *ended)
        return [job for job in jobs if not job.state.ended]

    def ended_counts(self) -> dict[tuple[str, str], int]:
        """Return the number of jobs ever ended, by kind and state."""
        with redis_errors_as_unavailable():
            counts: Any = self._redis.hgetall(_ENDED)
        found = {}
        for key, count in counts.items():
            kind, _, state = _text(key).partition(" ")
            found[kind, state] = int(count)
        return found

    def _read(self, ids: Sequence[Any]) -> list[Job]:
        records = self._redis.mget([_key(_text(id)) for id in ids]) if ids else ()
        return [Job.model_validate_json(record) for record in records if record]

    def change(self, id: str, change: Callable[[Job], Job]) -> Job:
        """Replace a job's record with the result of ``change`` in one atomic step.

        ``change`` may run more than once. It raises to keep the record, or returns it unchanged.

        Raises:
            NotFound: if there is no such job.
            Unavailable: if Redis does not answer.
        """
        keys = [_key(id), _changes_key(id), UPDATES_KEY, _OPEN, _ENDED]
        with redis_errors_as_unavailable():
            while True:
                record = self._redis.get(keys[0])
                if record is None:
                    raise _not_found(id)
                before = Job.model_validate_json(record)
                after = change(before)
                if after == before:
                    return before
                after = after.model_copy(update={"revision": before.revision + 1})
                entry = JobChange.between(before, after).model_dump_json(exclude_none=True)
                ends = after.state.ended and not before.state.ended
                ended = f"{after.spec.kind} {after.state}" if ends else ""
                if self._change(keys, [record, after.model_dump_json(), entry, id, after.revision, ended]):
                    return after

    def cancel(self, id: str, by: str = "") -> Job:
        """Cancel a queued job, or request the cancellation of a running one.

        A job that has ended or is publishing its result stays as it is.

        Raises:
            NotFound: if there is no such job.
            Unavailable: if Redis does not answer.
        """
        why = f"{_CANCELLATION} by {by}" if by else _CANCELLATION

        def cancelled(job: Job) -> Job:
            if job.state is JobState.QUEUED:
                return job.with_state(JobState.CANCELLED, why=why)
            if job.state is JobState.RUNNING and not job.committed:
                return job.with_state(JobState.CANCELLING, why=why)
            return job

        return self.change(id, cancelled)

    def changes(self, id: str, after: int = 0) -> list[JobChange]:
        """Return the retained changes of a job after revision ``after``, in order."""
        with redis_errors_as_unavailable():
            entries: Any = self._redis.xrange(_changes_key(id), min=f"{after + 1}-0")
        return [JobChange.model_validate_json(fields[b"change"]) for _, fields in entries]

    def append_log(self, id: str, lines: Iterable[str]) -> None:
        """Append lines to a job's log; long lines are truncated."""
        with redis_errors_as_unavailable(), self._redis.pipeline(transaction=False) as pipe:
            for line in lines:
                text = line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]} ..."
                # One script, so that lines have the same order in both streams.
                pipe.eval(
                    "local at = redis.call('XADD', KEYS[1], 'MAXLEN', '~', 5000, '*', 'line', ARGV[1]) "
                    "redis.call('XADD', KEYS[2], 'MAXLEN', '~', 10000, '*', "
                    "'job', ARGV[2], 'at', at, 'line', ARGV[1])",
                    2,
                    _log_key(id),
                    UPDATES_KEY,
                    text,
                    id,
                )
            pipe.execute()

    def read_log(self, id: str, after: str = "") -> list[LogLine]:
        """Return the retained lines of a job's log after the one with id ``after``, in order."""
        with redis_errors_as_unavailable():
            entries: Any = self._redis.xrange(_log_key(id), min=f"({after}" if after else "-")
        return [LogLine(_text(at), _text(fields[b"line"])) for at, fields in entries]

    def acquire_lease(self, name: str, holder: str) -> bool:
        """Acquire or renew a lease for ``LEASE_S`` seconds; return False if another holder has it."""
        key, lease_ms = _lease_key(name), int(LEASE_S * 1000)
        with redis_errors_as_unavailable():
            if self._redis.set(key, holder, nx=True, px=lease_ms):
                return True
            if _text(self._redis.get(key)) != holder:
                return False
            return bool(self._redis.pexpire(key, lease_ms))

    def release_lease(self, name: str, holder: str) -> None:
        """Release a lease if ``holder`` still has it."""
        key = _lease_key(name)
        with redis_errors_as_unavailable():
            if _text(self._redis.get(key)) == holder:
                self._redis.delete(key)

    def are_leased(self, names: Sequence[str]) -> list[bool]:
        """Return for each name whether a lease on it is held."""
        with redis_errors_as_unavailable():
            return [held is not None for held in self._redis.mget(map(_lease_key, names))] if names else []

    def shard_counts(self, id: str) -> dict[str, int]:
        """Return the counts stored for a job's shards."""
        with redis_errors_as_unavailable():
            counts: Any = self._redis.hgetall(_shards_key(id))
        return {_text(field): int(count) for field, count in counts.items()}

    def set_shard_count(self, id: str, field: str, count: int) -> None:
        """Store a count for a job's shards."""
        with redis_errors_as_unavailable():
            self._redis.hset(_shards_key(id), field, str(count))

    def increment_shard_count(self, id: str, field: str) -> int:
        """Increment a count of a job's shards and return it."""
        with redis_errors_as_unavailable():
            return int(self._redis.hincrby(_shards_key(id), field, 1))

    def phase_seconds(self, pattern: str) -> dict[str, float]:
        """Return the seconds per phase of the last job of a pattern; empty if there was none."""
        with redis_errors_as_unavailable():
            known: Any = self._redis.hget(_PACES, pattern)
        return _SECONDS.validate_json(known) if known else {}

    def save_phase_seconds(self, job: Job) -> None:
        """Store the seconds per phase of a job, for estimates of the next job of its pattern."""
        seconds = {phase.name: round(phase.seconds, 3) for phase in job.phases}
        with redis_errors_as_unavailable():
            self._redis.hset(_PACES, job.pattern, _SECONDS.dump_json(seconds))

    def claim(self, name: str, for_s: float) -> bool:
        """Claim a task for ``for_s`` seconds; return False if any process has claimed it."""
        with redis_errors_as_unavailable():
            return bool(self._redis.set(f"blemish:claim:{name}", 1, nx=True, px=int(for_s * 1000)))

    def delete_ended(self, ended_before: datetime) -> list[str]:
        """Delete the records and logs of jobs that ended before a time; return their ids."""
        deleted = []
        with redis_errors_as_unavailable():
            oldest = self._redis.zrangebyscore(_JOBS, "-inf", ended_before.timestamp(), start=0, num=1000)
            for job in self._read(oldest):
                if job.ended is None or job.ended > ended_before:
                    continue
                request = [f"{_REQUEST}{job.request}"] if job.request else []
                keys = [_key(job.id), _changes_key(job.id), _log_key(job.id), _shards_key(job.id), *request]
                with self._redis.pipeline(transaction=True) as pipe:
                    pipe.delete(*keys)
                    pipe.zrem(_JOBS, job.id)
                    pipe.zrem(_OPEN, job.id)
                    pipe.execute()
                deleted.append(job.id)
        return deleted


def parse_update(entry: dict[bytes, bytes]) -> JobUpdate:
    """Parse an entry of the stream at ``UPDATES_KEY``."""
    job = _text(entry[b"job"])
    if b"line" in entry:
        return JobUpdate(job, line=LogLine(_text(entry[b"at"]), _text(entry[b"line"])))
    return JobUpdate(job, change=JobChange.model_validate_json(entry[b"change"]))


def _new_job(spec: Spec, priority: JobPriority, limits: Limits, request: str, by: str) -> Job:
    moment = now()
    return Job(
        id=uuid4().hex[:16],
        spec=spec,
        priority=priority,
        limits=limits,
        request=request,
        created=moment,
        history=(Event(to=JobState.QUEUED, at=moment, why=f"{REQUESTED_BY}{by}" if by else ""),),
    )


def _fingerprint(spec: Spec, priority: JobPriority, limits: Limits) -> str:
    """Return a hash that identifies a request.

    A default priority, default limits and a missing mask add nothing, so that fingerprints of older builds
    stay valid.
    """
    parts = [spec.model_dump_json(exclude={"mask"} if getattr(spec, "mask", None) is None else None)]
    if priority is not JobPriority.NORMAL or limits != Limits():
        parts += [priority, limits.model_dump_json()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _difference(existing: Spec, requested: Spec) -> str:
    """Describe how two specifications differ."""
    old, new = existing.model_dump(exclude_none=True), requested.model_dump(exclude_none=True)
    fields = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if not fields:
        return "They differ in priority or limits"

    def described(values: dict[str, Any]) -> str:
        return ", ".join(f"{name}={values[name]!r}" for name in fields if name in values) or "not set"

    return f"Existing job: {described(old)}. This request: {described(new)}"


def _not_found(id: str) -> NotFound:
    return NotFound(f"there is no job {id!r}; `blemish jobs` lists them")


def _request_hash(request_id: str) -> str:
    if len(request_id) > _MAX_REQUEST_ID:
        raise InvalidRequest(
            f"request_id has {len(request_id)} characters; use at most {_MAX_REQUEST_ID}",
            field="request_id",
        )
    return hashlib.sha256(request_id.encode()).hexdigest()


def _key(id: str) -> str:
    return f"blemish:job:{id}"


def _changes_key(id: str) -> str:
    return f"blemish:changes:{id}"


def _log_key(id: str) -> str:
    return f"blemish:log:{id}"


def _shards_key(id: str) -> str:
    return f"blemish:parts:{id}"


def _lease_key(name: str) -> str:
    return f"blemish:lease:{name}"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
