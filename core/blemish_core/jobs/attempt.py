# SPDX-License-Identifier: Apache-2.0
"""One try at a job: it holds the lease, tells how far it is, and hears that it was cancelled."""

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Self
from uuid import uuid4

import structlog

from blemish_core.errors import JobCancelled, Unavailable
from blemish_core.jobs.record import Job, JobState, Phase, now
from blemish_core.jobs.store import JobStore

_TELL_EVERY_S = 0.2
_RENEW_EVERY_S = 5.0
_PATIENCE_S = 600.0
MAX_ATTEMPTS = 3

log = structlog.get_logger(__name__)


class LeaseHeld(Exception):
    """Another worker is at this job; come back when its lease may have run out."""


class Superseded(Exception):
    """Another worker took the job over: this attempt's word counts no more."""


class Attempt:
    """A context in which a job is worked on. Use ``begin`` to enter the first state."""

    def __init__(self, store: JobStore, job_id: str) -> None:
        self._store = store
        self._id = job_id
        self._holder = uuid4().hex
        self._number = 0
        self._worker = f"{socket.gethostname()}:{os.getpid()}"
        self._told_at = 0.0
        self._phase, self._phase_began = "", (0.0, 0)
        self._stopped = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        if not self._store.take_lease(self._id, self._holder):
            raise LeaseHeld(self._id)
        self._heart.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._heart.join()
        try:
            self._store.drop_lease(self._id, self._holder)
        except Unavailable:
            log.warning("lease not dropped, it runs out by itself")

    def begin(self) -> Job | None:
        """Move the job to RUNNING under the next attempt's number; None if there is nothing to do."""

        def move(job: Job) -> Job:
            if job.state is JobState.CANCELLING:
                # Its worker died before it could say so.
                return job.moved(JobState.CANCELLED, worker=self._worker)
            if job.state.ended:
                return job
            if job.attempt >= MAX_ATTEMPTS:
                return job.moved(
                    JobState.FAILED,
                    worker=self._worker,
                    error=f"started {job.attempt} times and its worker died each time: out of memory? "
                    "The worker's log and the kernel's tell",
                )
            return job.moved(
                JobState.RUNNING,
                worker=self._worker,
                why=f"the worker of attempt {job.attempt} died or lost its lease" if job.attempt else "",
                attempt=job.attempt + 1,
                started=now(),
                phases=(),
                warnings=(),
            )

        job = self._store.change(self._id, move)
        if job.state is not JobState.RUNNING:
            return None
        self._number = job.attempt
        return job

    def progress(self, phase: str, done: int, total: int, unit: str) -> None:
        """Tell how far the work is, at most every 0.2 s within a phase.

        Raises:
            JobCancelled: if the job was asked to end.
            Superseded: if another worker took it over.
        """
        now_s = time.monotonic()
        if phase != self._phase:
            self._phase, self._phase_began, self._told_at = phase, (now_s, done), 0.0
        if done != total and now_s - self._told_at < _TELL_EVERY_S:
            return
        self._told_at = now_s
        began_s, before = self._phase_began
        pace = (now_s - began_s) / (done - before) if done > before else None
        remaining_s = None if pace is None or not total else pace * (total - done)
        reached = Phase(name=phase, done=done, total=total, unit=unit, remaining_s=remaining_s)
        try:
            job = self._store.change(self._id, lambda job: self._mine(job).at(reached))
        except Unavailable:
            log.warning("progress not told, working on", dependency="redis")
            return
        if job.state is JobState.CANCELLING:
            raise JobCancelled(f"jobs/{self._id} was cancelled")

    def warn(self, text: str) -> None:
        """Leave a sentence for whoever reads the job."""
        self._surely(lambda job: self._mine(job).model_copy(update={"warnings": (*job.warnings, text)}))

    def finish(self, state: JobState, **changes: Any) -> None:
        """Move the job to its last state, waiting for Redis if need be."""
        self._surely(lambda job: self._mine(job).moved(state, worker=self._worker, **changes))

    def _mine(self, job: Job) -> Job:
        if job.attempt != self._number or job.state.ended:
            raise Superseded(f"jobs/{self._id} is at attempt {job.attempt}, {job.state}")
        return job

    def _surely(self, change: Callable[[Job], Job]) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._store.change(self._id, change)
                return
            except Unavailable:
                if time.monotonic() > give_up:
                    raise
                time.sleep(1)

    def _beat(self) -> None:
        while not self._stopped.wait(_RENEW_EVERY_S):
            try:
                if not self._store.take_lease(self._id, self._holder):
                    log.warning("lease lost")
            except Unavailable:
                log.warning("lease not renewed", dependency="redis")
