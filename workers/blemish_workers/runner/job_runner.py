# SPDX-License-Identifier: Apache-2.0
"""Sees jobs through: holds the lease, has a child do the work, says what became of it, and cleans up."""

import threading
from collections.abc import Callable
from contextlib import suppress

import structlog

from blemish_core.jobs import messages
from blemish_core.jobs.attempt import Attempt, Superseded
from blemish_core.jobs.lease import Lease, LeaseHeld
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, Job, JobState, Limits, Result, TrainSpec
from blemish_core.jobs.shards import ShardTracker, shards_for
from blemish_core.jobs.store import JobStore
from blemish_core.platform.errors import BlemishError, JobCancelled, NotFound, Unavailable
from blemish_workers.runner.bulk_embedding import BulkEmbedding
from blemish_workers.runner.child_process import ChildDied
from blemish_workers.runner.premises import WorkerStores
from blemish_workers.runner.slots import Slot
from blemish_workers.runner.step_supervisor import LimitExceeded, StepFailed, StepSupervisor, Stopped

log = structlog.get_logger(__name__)


class JobRunner:
    """Of the worker named ``worker``, ``host:pid``; safe to share between threads, each with a slot.

    ``send`` has any worker take up a job, ``call_helpers`` up to so many others take parts of one.
    """

    def __init__(
        self,
        store: JobStore,
        premises: WorkerStores,
        worker: str,
        limits: Limits,
        send: Callable[[Job], None],
        call_helpers: Callable[[Job, int], None],
    ) -> None:
        self._store = store
        self._premises = premises
        self._worker = worker
        self._limits = limits
        self._send = send
        self._call_helpers = call_helpers
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have the jobs in work handed back, and begin no other."""
        self._stopping.set()

    def see_through(self, id: str, slot: Slot) -> None:
        """Work on a job until it has ended, unless it has or somebody else is at it.

        Raises:
            Unavailable: if Redis does not answer. Nothing is lost: somebody will be told again.
        """
        if self._stopping.is_set():
            return
        try:
            with structlog.contextvars.bound_contextvars(job=id), Lease(self._store, id):
                self._attempts(id, slot)
        except LeaseHeld:
            log.info("somebody is at it", job=id)
        except NotFound:
            log.info("no such job any more", job=id)

    def help(self, id: str, slot: Slot) -> None:
        """Do parts of a bulk job that somebody else sees through, as long as there are any.

        Raises:
            Unavailable: if Redis does not answer.
        """
        with structlog.contextvars.bound_contextvars(job=id), suppress(NotFound):
            job = self._store.get(id)
            if job.state is not JobState.RUNNING or not isinstance(job.spec, EmbedSpec) or not job.parts:
                return
            try:
                self._embedding(job, job.spec, slot).help()
            except (JobCancelled, Superseded, Stopped, LimitExceeded) as reason:
                log.info("helps no more", reason=str(reason))
                self._clean_up(self._store.get(id))
            finally:
                slot.tidy()

    def _attempts(self, id: str, slot: Slot) -> None:
        """Try until one attempt comes to an end."""
        death = ""
        while attempt := Attempt.begin(self._store, id, self._worker, death):
            job = attempt.job
            log.info("attempt begins", kind=job.spec.kind, attempt=job.attempt)
            self._premises.discard_staged(job)  # by the one before
            try:
                self._to_the_end(attempt, slot)
                break
            except ChildDied as end:
                death = f"the process of attempt {job.attempt} {end}"
                log.warning("child died", how=str(end))
            except Superseded as why:
                log.warning("superseded", why=str(why))
                break  # if the other attempt has ended, what was staged here since is nobody else's
            except Stopped:
                self._hand_back(attempt)
                return
        slot.tidy()
        self._clean_up(self._store.get(id))

    def _hand_back(self, attempt: Attempt) -> None:
        self._premises.discard_staged(attempt.job)
        with suppress(Superseded):
            attempt.hand_back("its worker was told to stop")
            log.info("job handed back")
            self._send(attempt.job)

    def _to_the_end(self, attempt: Attempt, slot: Slot) -> None:
        """Do the work and move the job to its last state.

        Raises:
            ChildDied, Superseded, Stopped: if it is to be moved elsewhere.
        """
        job = attempt.job
        try:
            result = self._work(attempt, slot)
        except JobCancelled:
            self._premises.discard_staged(job)
            attempt.finish(JobState.CANCELLED)
            log.info("job cancelled")
        except LimitExceeded as error:
            attempt.finish(JobState.FAILED, error=str(error))
            log.warning("job took too much", error=str(error))
        except Unavailable:
            raise  # Redis is away: somebody goes on later
        except (StepFailed, BlemishError) as error:
            attempt.finish(JobState.FAILED, error=str(error))
            log.warning("job failed", error=str(error))
        else:
            attempt.finish(JobState.SUCCEEDED, result=result)
            log.info("job succeeded")

    def _work(self, attempt: Attempt, slot: Slot) -> Result | None:
        job = attempt.job
        match job.spec:
            case TrainSpec():
                step = messages.Train(job=job.id, spec=job.spec)
                return self._oversight(job, slot).do(step, attempt).result
            case EvaluateSpec():
                evaluate = messages.Evaluate(job=job.id, spec=job.spec)
                return self._oversight(job, slot).do(evaluate, attempt).result
            case EmbedSpec():
                return self._embed(attempt, job.spec, slot)

    def _embed(self, attempt: Attempt, spec: EmbedSpec, slot: Slot) -> Result:
        images = self._premises.count_to_embed(spec)
        # Divided once: what an earlier attempt has done counts.
        job = attempt.divide(shards_for(images))
        if job.parts > 1:
            self._call_helpers(job, job.parts - 1)
        points = self._embedding(job, spec, slot).see_through(attempt, images)
        attempt.commit()
        try:
            self._premises.publish_index(spec)
        except Unavailable as error:
            raise StepFailed(str(error)) from error
        return Result(model_version=spec.model, indexed_images=points)

    def _embedding(self, job: Job, spec: EmbedSpec, slot: Slot) -> BulkEmbedding:
        board = ShardTracker(self._store, job.id, job.parts)
        return BulkEmbedding(job.id, spec, board, self._oversight(job, slot))

    def _oversight(self, job: Job, slot: Slot) -> StepSupervisor:
        return StepSupervisor(self._store, job, slot, self._limits, self._stopping)

    def _clean_up(self, job: Job) -> None:
        """Drop what a job that has ended need not leave behind."""
        if not job.state.ended:
            return
        self._premises.forget_checkpoint(job)
        if job.state is JobState.SUCCEEDED:
            self._premises.discard_staged(job)  # by an attempt that was superseded
            return
        try:
            self._premises.discard_all(job)
        except Unavailable as error:
            log.warning("not cleaned up", error=str(error))
