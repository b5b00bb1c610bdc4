# SPDX-License-Identifier: Apache-2.0
"""One try at a job, fenced by its number: what it says counts until somebody has begun another."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog

from blemish_core.jobs.record import Job, JobState, Phase, now
from blemish_core.jobs.store import JobStore
from blemish_core.platform.errors import JobCancelled, Unavailable

MAX_DEATHS = 3
"""A job whose process died so often is not tried again: it is likely to be the job's fault."""

_PATIENCE_S = 600.0

log = structlog.get_logger(__name__)


class Superseded(Exception):
    """Somebody else has begun another attempt, or ended the job: this one's word counts no more."""


class Attempt:
    """What the worker says of a job while it works on it. ``begin`` makes one."""

    def __init__(self, store: JobStore, job: Job, worker: str) -> None:
        self.job = job
        """As it was when the attempt began."""
        self._store = store
        self._worker = worker

    @classmethod
    def begin(cls, store: JobStore, id: str, worker: str, death: str = "") -> "Attempt | None":
        """Move the job to RUNNING under the next attempt's number; None if there is nothing to do.

        Args:
            store: where the job is.
            id: the job's; the caller holds its lease.
            worker: who begins, ``host:pid``.
            death: how the attempt before ended, if the caller knows; else its worker must have died.

        Raises:
            NotFound: if there is no such job.
            Unavailable: if Redis does not answer.
        """

        def move(job: Job) -> Job:
            if job.state is JobState.CANCELLING:
                # Its worker died before it could say so.
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
                    error=f"what worked on it died {deaths} times, so it is not tried again; the last time "
                    f"{why}. `blemish jobs logs {id}` shows what it said",
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
            )

        job = store.change(id, move)
        return cls(store, job, worker) if job.state is JobState.RUNNING else None

    def progress(self, phase: Phase) -> None:
        """Tell how far the work is; while Redis is away nobody hears it.

        Raises:
            Superseded: if another attempt has begun.
        """
        try:
            self._store.change(self.job.id, lambda job: self._mine(job).with_phase(phase))
        except Unavailable:
            log.warning("progress not told, working on", dependency="redis")

    def divide(self, parts: int) -> Job:
        """Divide the work into so many parts, unless an earlier attempt has divided it; return the job.

        Raises:
            Superseded: if another attempt has begun.
        """

        def move(job: Job) -> Job:
            return job if self._mine(job).parts else job.model_copy(update={"parts": parts})

        return self._surely(move)

    def warn(self, text: str) -> None:
        """Leave a sentence for whoever reads the job."""

        def add(job: Job) -> Job:
            if text in self._mine(job).warnings:
                return job  # said before, and the answer was lost
            return job.model_copy(update={"warnings": (*job.warnings, text)})

        self._surely(add)

    def commit(self) -> None:
        """Pass the point of no return: from here the job cannot be cancelled, only finished.

        Call it right before the effect becomes visible. Waits for Redis if need be.

        Raises:
            JobCancelled: if the job was asked to end.
            Superseded: if another attempt has begun.
        """

        def move(job: Job) -> Job:
            if self._mine(job).state is JobState.CANCELLING:
                raise JobCancelled(f"jobs/{job.id} was cancelled")
            return job.model_copy(update={"committed": True})

        self._surely(move)

    def finish(self, state: JobState, **changes: Any) -> None:
        """Move the job to its last state, waiting for Redis if need be.

        Raises:
            Superseded: if another attempt has begun.
        """

        def move(job: Job) -> Job:
            if job.attempt == self.job.attempt and job.state is state:
                return job  # moved before, and the answer was lost
            return self._mine(job).with_state(state, worker=self._worker, **changes)

        ended = self._surely(move)
        if state is JobState.SUCCEEDED:
            with suppress(Unavailable):
                self._store.save_phase_seconds(ended)

    def hand_back(self, why: str) -> None:
        """Have the job wait for another worker; one that was asked to end ends.

        Raises:
            Superseded: if another attempt has begun.
            Unavailable: if Redis does not answer.
        """

        def move(job: Job) -> Job:
            cancelled = self._mine(job).state is JobState.CANCELLING
            to = JobState.CANCELLED if cancelled else JobState.QUEUED
            return job.with_state(to, worker=self._worker, why=why, phases=())

        self._store.change(self.job.id, move)

    def _mine(self, job: Job) -> Job:
        if job.attempt != self.job.attempt or job.state not in (JobState.RUNNING, JobState.CANCELLING):
            raise Superseded(f"jobs/{job.id} is at attempt {job.attempt}, {job.state}")
        return job

    def _surely(self, change: Callable[[Job], Job]) -> Job:
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._store.change(self.job.id, change)
            except Unavailable:
                if time.monotonic() > give_up:
                    raise
                time.sleep(1)
