# SPDX-License-Identifier: Apache-2.0
"""Job records in Redis, changed by compare-and-set; every change is kept and told.

=============================  ==================================================================
``blemish:job:{id}``           the record, JSON
``blemish:jobs``               sorted set of ids by time of creation
``blemish:open``               the same of those that have not ended
``blemish:request:{hash}``     the job that a request_id made, and the fingerprint of the request
``blemish:lease:{name}``       who works on it; gone 15 s after he is
``blemish:changes:{id}``       stream of a job's changes under their revision, the newest 20,000
``blemish:log:{id}``           stream of what the job's process said, the newest 5,000 lines
``blemish:news``               stream of what is added to those two, of all jobs, the newest 10,000
``blemish:parts:{id}``         hash of what is done of a bulk job; see ``parts``
``blemish:ended``              hash of how many jobs of each kind ended in each state, ever
``blemish:paces``              hash of what the phases of the last job of each pattern took
``blemish:claim:{what}``       there while what one does for all need not be done again
=============================  ==================================================================
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import redis
from pydantic import BaseModel, ConfigDict, TypeAdapter
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, WatchError
from redis.exceptions import TimeoutError as TimedOut

from blemish_core.jobs.record import Event, Job, JobPriority, JobState, Limits, Phase, Spec, now
from blemish_core.platform.errors import AlreadyExists, InvalidRequest, NotFound, Unavailable

UPDATES_KEY = "blemish:news"
LEASE_S = 15.0
_JOBS, _OPEN, _ENDED = "blemish:jobs", "blemish:open", "blemish:ended"
_REQUEST = "blemish:request:"
_PACES = "blemish:paces"
_SECONDS = TypeAdapter(dict[str, float])
_MAX_REQUEST_ID = 128
_MAX_LINE = 2000
_ASKED = "asked to end"

# KEYS: record, changes, news, open, ended.
# ARGV: record before, record after, change, id, revision, kind and state if it ends by this.
# The stream may hold that revision where Redis came back without its last second.
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
    """What became of a job at a revision: one phase further, or anything at all."""

    model_config = ConfigDict(frozen=True)

    revision: int
    phase: Phase | None = None
    job: Job | None = None
    """The whole record; None where ``phase`` says it all."""

    @classmethod
    def between(cls, before: Job, after: Job) -> "JobChange":
        moved = [phase for phase in after.phases if phase not in before.phases]
        if (
            len(moved) == 1
            and before.with_phase(moved[0]).model_copy(update={"revision": after.revision}) == after
        ):
            return cls(revision=after.revision, phase=moved[0])
        return cls(revision=after.revision, job=after)

    def apply_to(self, to: Job | None) -> Job | None:
        """Return the record after this change; None if that does not follow from ``to``."""
        if self.job is not None:
            return self.job
        if to is None or self.phase is None or self.revision != to.revision + 1:
            return None
        return to.with_phase(self.phase).model_copy(update={"revision": self.revision})


@dataclass(frozen=True)
class LogLine:
    """A line of a job's log."""

    id: str
    """Its place: lines sort by it and can be read on from it."""
    text: str


@dataclass(frozen=True)
class JobUpdate:
    """Something that was added to a job's changes or to its log."""

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
        """Prepare a connection; nothing is sent before the first call."""
        client = redis.Redis.from_url(url, socket_connect_timeout=2, socket_timeout=5)
        return cls(client)

    def ping(self) -> None:
        """Raise Unavailable unless Redis answers."""
        with redis_errors_as_unavailable():
            self._redis.ping()

    def create(
        self,
        asked: Spec,
        request_id: str = "",
        settle: Callable[[Spec], Spec] = lambda spec: spec,
        priority: JobPriority = JobPriority.NORMAL,
        limits: Limits | None = None,
        by: str = "",
    ) -> tuple[Job, bool]:
        """Write a new job, or find the one that the same request made before, as one step.

        ``settle`` turns what was asked for into what is to be done, or raises; a request that made a job
        before is not settled again, so that it stays the same whatever was promoted meanwhile.

        Returns the job and whether it is new; its history begins with who asked for it, if ``by`` says so.

        Raises:
            AlreadyExists: if ``request_id`` was used for another request.
            InvalidRequest: if it is too long.
        """
        limits = limits or Limits()
        request = _request(request_id) if request_id else ""
        claim = f"{_REQUEST}{request}" if request else None
        fingerprint = _fingerprint(asked, priority, limits)
        with redis_errors_as_unavailable(), self._redis.pipeline(transaction=True) as pipe:
            while True:
                try:
                    if claim:
                        pipe.watch(claim)  # type: ignore[no-untyped-call]  # redis-py left it so
                        if held := _text(pipe.get(claim)):
                            return self._claimed(request_id, held, fingerprint, asked), False
                    moment = now()
                    job = Job(
                        id=uuid4().hex[:16],
                        spec=settle(asked),
                        priority=priority,
                        limits=limits,
                        request=request,
                        created=moment,
                        history=(
                            Event(to=JobState.QUEUED, at=moment, why=f"asked for by {by}" if by else ""),
                        ),
                    )
                    change = JobChange(revision=job.revision, job=job).model_dump_json(exclude_none=True)
                    pipe.multi()
                    if claim:
                        pipe.set(claim, f"{job.id} {fingerprint}")
                    pipe.set(_key(job.id), job.model_dump_json())
                    pipe.zadd(_JOBS, {job.id: job.created.timestamp()})
                    pipe.zadd(_OPEN, {job.id: job.created.timestamp()})
                    pipe.xadd(_changes_key(job.id), {"change": change}, id=f"{job.revision}-0")
                    pipe.xadd(
                        UPDATES_KEY, {"job": job.id, "change": change}, maxlen=10_000, approximate=True
                    )
                    pipe.execute()
                    return job, True
                except WatchError:
                    continue

    def _claimed(self, request_id: str, held: str, fingerprint: str, asked: Spec) -> Job:
        """Return the job that ``request_id`` made."""
        id, known_fingerprint = held.split()
        job = self.get(id)
        if known_fingerprint != fingerprint:
            raise AlreadyExists(
                f"request_id {request_id!r} made jobs/{id}, which asks for something else; "
                f"take a new request_id. {_difference(job.spec, asked)}"
            )
        return job

    def get(self, id: str) -> Job:
        """Read a job.

        Raises:
            NotFound: if there is none.
        """
        with redis_errors_as_unavailable():
            record = self._redis.get(_key(id))
        if record is None:
            raise _no_such(id)
        return Job.model_validate_json(record)

    def page(self, before: str = "", limit: int = 100, states: Sequence[JobState] = ()) -> list[Job]:
        """Jobs, newest first, those made before job ``before``."""
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
        """All jobs that have not ended, the oldest first."""
        with redis_errors_as_unavailable():
            jobs = self._read(self._redis.zrange(_OPEN, 0, -1))
            # Those that a worker of an older build has ended, which knew no such list.
            if ended := [job.id for job in jobs if job.state.ended]:
                self._redis.zrem(_OPEN, *ended)
        return [job for job in jobs if not job.state.ended]

    def ended_counts(self) -> dict[tuple[str, str], int]:
        """How many jobs ever ended, by kind and state."""
        with redis_errors_as_unavailable():
            counts: Any = self._redis.hgetall(_ENDED)
        found = {}
        for what, count in counts.items():
            kind, _, state = _text(what).partition(" ")
            found[kind, state] = int(count)
        return found

    def _read(self, ids: Sequence[Any]) -> list[Job]:
        records = self._redis.mget([_key(_text(id)) for id in ids]) if ids else ()
        return [Job.model_validate_json(record) for record in records if record]

    def change(self, id: str, change: Callable[[Job], Job]) -> Job:
        """Replace a job's record by what ``change`` makes of it, as one step.

        ``change`` may run more than once, raises to leave the record alone, and returns its argument if
        there is nothing to change.

        Raises:
            NotFound: if there is no such job.
        """
        keys = [_key(id), _changes_key(id), UPDATES_KEY, _OPEN, _ENDED]
        with redis_errors_as_unavailable():
            while True:
                record = self._redis.get(keys[0])
                if record is None:
                    raise _no_such(id)
                before = Job.model_validate_json(record)
                after = change(before)
                if after == before:
                    return before
                after = after.model_copy(update={"revision": before.revision + 1})
                told = JobChange.between(before, after).model_dump_json(exclude_none=True)
                ends = after.state.ended and not before.state.ended
                ended = f"{after.spec.kind} {after.state}" if ends else ""
                if self._change(keys, [record, after.model_dump_json(), told, id, after.revision, ended]):
                    return after

    def cancel(self, id: str, by: str = "") -> Job:
        """Ask a job to end: at once if it waits, soon if it runs, not at all if it has or is about to."""
        why = f"{_ASKED} by {by}" if by else _ASKED

        def move(job: Job) -> Job:
            if job.state is JobState.QUEUED:
                return job.with_state(JobState.CANCELLED, why=why)
            if job.state is JobState.RUNNING and not job.committed:
                return job.with_state(JobState.CANCELLING, why=why)
            return job

        return self.change(id, move)

    def changes(self, id: str, after: int = 0) -> list[JobChange]:
        """The kept changes of a job beyond revision ``after``, in order."""
        with redis_errors_as_unavailable():
            entries: Any = self._redis.xrange(_changes_key(id), min=f"{after + 1}-0")
        return [JobChange.model_validate_json(fields[b"change"]) for _, fields in entries]

    def append_log(self, id: str, lines: Iterable[str]) -> None:
        """Write lines to a job's log."""
        with redis_errors_as_unavailable(), self._redis.pipeline(transaction=False) as pipe:
            for line in lines:
                text = line if len(line) <= _MAX_LINE else f"{line[:_MAX_LINE]} ..."
                # One script, that the line has the same place in both.
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
        """The kept lines of a job's log beyond the one at ``after``, in order."""
        with redis_errors_as_unavailable():
            entries: Any = self._redis.xrange(_log_key(id), min=f"({after}" if after else "-")
        return [LogLine(_text(at), _text(fields[b"line"])) for at, fields in entries]

    def acquire_lease(self, name: str, holder: str) -> bool:
        """Claim the right to work on something, for 15 s from the last call."""
        key, lease_ms = _lease_key(name), int(LEASE_S * 1000)
        with redis_errors_as_unavailable():
            if self._redis.set(key, holder, nx=True, px=lease_ms):
                return True
            if _text(self._redis.get(key)) != holder:
                return False
            return bool(self._redis.pexpire(key, lease_ms))

    def release_lease(self, name: str, holder: str) -> None:
        key = _lease_key(name)
        with redis_errors_as_unavailable():
            if _text(self._redis.get(key)) == holder:
                self._redis.delete(key)

    def are_leased(self, names: Sequence[str]) -> list[bool]:
        """Whether somebody works on each of these."""
        with redis_errors_as_unavailable():
            return [held is not None for held in self._redis.mget(map(_lease_key, names))] if names else []

    def shard_counts(self, id: str) -> dict[str, int]:
        """The counts that were noted of a job's parts."""
        with redis_errors_as_unavailable():
            counts: Any = self._redis.hgetall(_parts_key(id))
        return {_text(field): int(count) for field, count in counts.items()}

    def set_shard_count(self, id: str, field: str, count: int) -> None:
        with redis_errors_as_unavailable():
            self._redis.hset(_parts_key(id), field, str(count))

    def increment_shard_count(self, id: str, field: str) -> int:
        with redis_errors_as_unavailable():
            return int(self._redis.hincrby(_parts_key(id), field, 1))

    def phase_seconds(self, pattern: str) -> dict[str, float]:
        """Seconds that each phase took the last job of a pattern; empty if there was none."""
        with redis_errors_as_unavailable():
            known: Any = self._redis.hget(_PACES, pattern)
        return _SECONDS.validate_json(known) if known else {}

    def save_phase_seconds(self, job: Job) -> None:
        """Keep what the phases of a job took, for those who wait for the next one like it."""
        seconds = {phase.name: round(phase.seconds, 3) for phase in job.phases}
        with redis_errors_as_unavailable():
            self._redis.hset(_PACES, job.pattern, _SECONDS.dump_json(seconds))

    def claim(self, what: str, for_s: float) -> bool:
        """Whether it is the caller's to do something now: true once within ``for_s``, whoever asks."""
        with redis_errors_as_unavailable():
            return bool(self._redis.set(f"blemish:claim:{what}", 1, nx=True, px=int(for_s * 1000)))

    def delete_ended(self, ended_before: datetime) -> list[str]:
        """Remove the jobs that ended before some time, and all that was kept of them; return their ids."""
        forgotten = []
        with redis_errors_as_unavailable():
            oldest = self._redis.zrangebyscore(_JOBS, "-inf", ended_before.timestamp(), start=0, num=1000)
            for job in self._read(oldest):
                if job.ended is None or job.ended > ended_before:
                    continue
                request = [f"{_REQUEST}{job.request}"] if job.request else []
                keys = [_key(job.id), _changes_key(job.id), _log_key(job.id), _parts_key(job.id), *request]
                with self._redis.pipeline(transaction=True) as pipe:
                    pipe.delete(*keys)
                    pipe.zrem(_JOBS, job.id)
                    pipe.zrem(_OPEN, job.id)
                    pipe.execute()
                forgotten.append(job.id)
        return forgotten


def parse_update(entry: dict[bytes, bytes]) -> JobUpdate:
    """Read an entry of the stream ``UPDATES_KEY``."""
    job = _text(entry[b"job"])
    if b"line" in entry:
        return JobUpdate(job, line=LogLine(_text(entry[b"at"]), _text(entry[b"line"])))
    return JobUpdate(job, change=JobChange.model_validate_json(entry[b"change"]))


def _fingerprint(asked: Spec, priority: JobPriority, limits: Limits) -> str:
    """Tell requests apart. What has its default adds nothing, so that a retry outlives an update."""
    parts = [asked.model_dump_json()]
    if priority is not JobPriority.NORMAL or limits != Limits():
        parts += [priority, limits.model_dump_json()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _difference(made: Spec, asked: Spec) -> str:
    """Say what two requests ask for, as far as they differ."""
    there, here = made.model_dump(exclude_none=True), asked.model_dump(exclude_none=True)
    fields = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if not fields:
        return "They differ in priority or limits"

    def told(of: dict[str, Any]) -> str:
        return ", ".join(f"{name}={of[name]!r}" for name in fields if name in of) or "nothing of these"

    return f"There: {told(there)}. Here: {told(here)}"


def _no_such(id: str) -> NotFound:
    return NotFound(f"there is no job {id!r}; `blemish jobs` lists them")


def _request(request_id: str) -> str:
    if len(request_id) > _MAX_REQUEST_ID:
        raise InvalidRequest(
            f"request_id has {len(request_id)} characters, at most {_MAX_REQUEST_ID} are allowed",
            field="request_id",
        )
    return hashlib.sha256(request_id.encode()).hexdigest()


def _key(id: str) -> str:
    return f"blemish:job:{id}"


def _changes_key(id: str) -> str:
    return f"blemish:changes:{id}"


def _log_key(id: str) -> str:
    return f"blemish:log:{id}"


def _parts_key(id: str) -> str:
    return f"blemish:parts:{id}"


def _lease_key(name: str) -> str:
    return f"blemish:lease:{name}"


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")


@contextmanager
def redis_errors_as_unavailable() -> Iterator[None]:
    """Have Redis's silence and refusals become Unavailable."""
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
