# SPDX-License-Identifier: Apache-2.0
"""An attempt at a job. Its number fences it: once another attempt begins, it can change nothing."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from blemish_core.jobs.record import Job, JobState, now
from blemish_core.jobs.reporter import PhaseTimer
from blemish_core.jobs.retry import retry_until_available
from blemish_core.jobs.store import JobStore
from blemish_core.platform.errors import JobCancelled, Unavailable

MAX_DEATHS = 3
"""Deaths of the child process or its worker after which a job fails, because it probably causes them."""

REDIS_TIMEOUT_S = 600.0
"""Time that an attempt waits for Redis before it gives up a change that it must not lose."""

log = structlog.get_logger(__name__)


class Superseded(Exception):
    """Another attempt has begun or the job has ended, so this attempt may change nothing."""


class Attempt:
    """A running attempt at a job, and the ``JobReporter`` of it. Create one with ``begin``."""

    def __init__(
        self, store: JobStore, job: Job, worker: str, redis_timeout_s: float = REDIS_TIMEOUT_S
    ) -> None:
        self.job = job
        """Record at the start of the attempt."""
        self._store = store
        self._worker = worker
        self._redis_timeout_s = redis_timeout_s
        self._timer = PhaseTimer()

    @classmethod
    def begin(
        cls,
        store: JobStore,
        id: str,
        worker: str,
        death: str = "",
        redis_timeout_s: float = REDIS_TIMEOUT_S,
    ) -> "Attempt | None":
        """Move the job to RUNNING with the next attempt number; return None if there is nothing to run.

        Args:
            store: the job's store.
            id: id of the job; the caller holds its lease.
            worker: process that begins the attempt, ``host:pid``.
            death: end of the previous attempt if the caller observed it; otherwise its worker died.
            redis_timeout_s: time that ``warn``, ``commit`` and ``finish`` wait for Redis.

        Raises:
            NotFound: if there is no such job.
            Unavailable: if Redis does not answer.
        """

        def begun(job: Job) -> Job:
            if job.state is JobState.CANCELLING:
                # The worker of the previous attempt died before it could end the job.
                return job.with_state(JobState.CANCELLED, worker=worker)
            if job.state.ended:
                return job
            died = job.state is JobState.RUNNING
            why = (death or f"the worker of attempt {job.attempt} died or lost its lease") if died else ""
            deaths = job.deaths + died
            if deaths >= MAX_DEATHS:
                return job.with_state(
                    JobState.FAILED,
                    worker=worker,
                    deaths=deaths,
                    error=f"the job's process died {deaths} times, the last time: {why}; "
                    f"check `blemish jobs logs {id}`",
                )
            return job.with_state(
                JobState.RUNNING,
                worker=worker,
                why=why,
                attempt=job.attempt + 1,
                expected=store.phase_seconds(job.pattern),
                deaths=deaths,
                committed=False,
                started=now(),
                phases=(),
                warnings=(),
                plan="",
            )

        job = store.change(id, begun)
        return cls(store, job, worker, redis_timeout_s) if job.state is JobState.RUNNING else None

    def progress(self, phase: str, done: int, total: int, unit: str) -> None:
        """Record progress; it is dropped while Redis does not answer.

        Raises:
            Superseded: if another attempt has begun.
        """
        measured = self._timer.measure(phase, done, total, unit)
        try:
            self._store.change(self.job.id, lambda job: self._fenced(job).with_phase(measured))
        except Unavailable:
            log.warning("progress dropped", dependency="redis")

    def divide(self, shards: int) -> Job:
        """Divide the job into shards unless an earlier attempt has done so; return the record.

        Raises:
            Superseded: if another attempt has begun.
            Unavailable: if Redis does not answer within the timeout.
        """

        def divided(job: Job) -> Job:
            return job if self._fenced(job).parts else job.model_copy(update={"parts": shards})

        return self._change(divided)

    def warn(self, text: str) -> None:
        """Add a warning to the job.

        Raises:
            Superseded: if another attempt has begun.
            Unavailable: if Redis does not answer within the timeout.
        """

        def warned(job: Job) -> Job:
            if text in self._fenced(job).warnings:
                return job  # added by an earlier try whose answer was lost
            return job.model_copy(update={"warnings": (*job.warnings, text)})

        self._change(warned)

    def announce(self, plan: str) -> None:
        """Record the plan of the job before its work begins.

        Raises:
            Superseded: if another attempt has begun.
            Unavailable: if Redis does not answer within the timeout.
        """
        self._change(lambda job: self._fenced(job).model_copy(update={"plan": plan}))

    def commit(self) -> None:
        """Pass the point of no return, after which the job can finish but not be cancelled.

        Raises:
            JobCancelled: if the job was cancelled.
            Superseded: if another attempt has begun.
            Unavailable: if Redis does not answer within the timeout.
        """

        def committed(job: Job) -> Job:
            if self._fenced(job).state is JobState.CANCELLING:
                raise JobCancelled(f"jobs/{job.id} was cancelled")
            return job.model_copy(update={"committed": True})

        self._change(committed)

    def finish(self, state: JobState, **changes: Any) -> None:
        """Move the job to a final state.

        Raises:
            Superseded: if another attempt has begun.
            Unavailable: if Redis does not answer within the timeout.
        """

        def finished(job: Job) -> Job:
            if job.attempt == self.job.attempt and job.state is state:
                return job  # finished by an earlier try whose answer was lost
            return self._fenced(job).with_state(state, worker=self._worker, **changes)

        job = self._change(finished)
        if state is JobState.SUCCEEDED:
            with suppress(Unavailable):
                self._store.save_phase_seconds(job)

    def requeue(self, why: str) -> None:
        """Return the job to the queue for another worker, or end it if it was cancelled.

        Raises:
            Superseded: if another attempt has begun.
            Unavailable: if Redis does not answer.
        """

        def requeued(job: Job) -> Job:
            cancelled = self._fenced(job).state is JobState.CANCELLING
            to = JobState.CANCELLED if cancelled else JobState.QUEUED
            return job.with_state(to, worker=self._worker, why=why, phases=())

        self._store.change(self.job.id, requeued)

    def _fenced(self, job: Job) -> Job:
        if job.attempt != self.job.attempt or job.state not in (JobState.RUNNING, JobState.CANCELLING):
            raise Superseded(f"jobs/{job.id} is at attempt {job.attempt}, {job.state}")
        return job

    def _change(self, change: Callable[[Job], Job]) -> Job:
        return retry_until_available(
            lambda: self._store.change(self.job.id, change), timeout_s=self._redis_timeout_s
        )
