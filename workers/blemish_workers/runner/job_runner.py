# SPDX-License-Identifier: Apache-2.0
"""The execution of jobs: lease, attempts, final state and cleanup."""

import threading
from collections.abc import Callable
from contextlib import suppress

import structlog

from blemish_core.jobs import messages
from blemish_core.jobs.attempt import Attempt, Superseded
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.embed_source import images_to_embed
from blemish_core.jobs.lease import Lease, LeaseHeld
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, Job, JobState, Limits, Result, TrainSpec
from blemish_core.jobs.retry import retry_until_available
from blemish_core.jobs.shards import ShardTracker, shards_for
from blemish_core.jobs.store import JobStore
from blemish_core.platform.errors import BlemishError, JobCancelled, NotFound, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_workers.runner.bulk_embedding import BulkEmbedding
from blemish_workers.runner.child_process import ChildDied
from blemish_workers.runner.cleanup import clean_up, discard_staged_files
from blemish_workers.runner.slots import Slot
from blemish_workers.runner.step_supervisor import (
    JobLimitExceeded,
    StepFailed,
    StepSupervisor,
    WorkerStopping,
)

log = structlog.get_logger(__name__)


class JobRunner:
    """Runs jobs for one worker. Safe to share between threads that each have a slot.

    Args:
        store: the job records.
        context: the stores that jobs use.
        worker: the worker, ``host:pid``.
        limits: the worker's limits for each attempt.
        send: sends a job to the queue.
        request_helpers: asks up to a number of workers to run shards of a job.
    """

    def __init__(
        self,
        store: JobStore,
        context: JobContext,
        worker: str,
        limits: Limits,
        send: Callable[[Job], None],
        request_helpers: Callable[[Job, int], None],
    ) -> None:
        self._store = store
        self._context = context
        self._worker = worker
        self._limits = limits
        self._send = send
        self._request_helpers = request_helpers
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Requeue the running jobs and start no more."""
        self._stopping.set()

    def run(self, id: str, slot: Slot) -> None:
        """Run a job to its end; return at once if it has ended or another worker runs it.

        Raises:
            Unavailable: if Redis does not answer; maintenance finds the job later.
        """
        if self._stopping.is_set():
            return
        try:
            with structlog.contextvars.bound_contextvars(job=id), Lease(self._store, id):
                self._run_attempts(id, slot)
        except LeaseHeld:
            log.info("job already leased", job=id)
        except NotFound:
            log.info("job not found", job=id)

    def run_free_shards(self, id: str, slot: Slot) -> None:
        """Run free shards of a bulk embedding that another worker runs.

        Raises:
            Unavailable: if Redis does not answer.
        """
        with structlog.contextvars.bound_contextvars(job=id), suppress(NotFound):
            job = self._store.get(id)
            if job.state is not JobState.RUNNING or not isinstance(job.spec, EmbedSpec) or not job.parts:
                return
            try:
                self._bulk_embedding(job, job.spec, slot).run_free_shards()
            except (JobCancelled, Superseded, WorkerStopping, JobLimitExceeded) as reason:
                log.info("stopped running shards", reason=str(reason))
                clean_up(self._context, self._store.get(id))
            finally:
                slot.recycle()

    def _run_attempts(self, id: str, slot: Slot) -> None:
        """Begin attempts until one ends without the death of its child."""
        death = ""
        while attempt := Attempt.begin(self._store, id, self._worker, death):
            job = attempt.job
            log.info("attempt started", kind=job.spec.kind, attempt=job.attempt)
            discard_staged_files(self._context, job)
            try:
                self._finish(attempt, slot)
                break
            except ChildDied as error:
                death = f"the process of attempt {job.attempt} {error}"
                log.warning("child died", error=str(error))
            except Superseded as error:
                log.warning("attempt superseded", error=str(error))
                break
            except WorkerStopping:
                self._requeue(attempt)
                return
        slot.recycle()
        clean_up(self._context, self._store.get(id))

    def _requeue(self, attempt: Attempt) -> None:
        discard_staged_files(self._context, attempt.job)
        with suppress(Superseded):
            attempt.requeue("its worker was stopped")
            log.info("job requeued")
            self._send(attempt.job)

    def _finish(self, attempt: Attempt, slot: Slot) -> None:
        """Run an attempt and move the job to its final state.

        Raises:
            ChildDied, Superseded, WorkerStopping: if the job is to continue elsewhere.
            Unavailable: if Redis does not answer.
        """
        try:
            result = self._result(attempt, slot)
        except JobCancelled:
            discard_staged_files(self._context, attempt.job)
            attempt.finish(JobState.CANCELLED)
            log.info("job cancelled")
        except JobLimitExceeded as error:
            attempt.finish(JobState.FAILED, error=str(error))
            log.warning("job exceeded a limit", error=str(error))
        except Unavailable:
            raise
        except (StepFailed, BlemishError) as error:
            attempt.finish(JobState.FAILED, error=str(error))
            log.warning("job failed", error=str(error))
        else:
            attempt.finish(JobState.SUCCEEDED, result=result)
            log.info("job succeeded")

    def _result(self, attempt: Attempt, slot: Slot) -> Result | None:
        job = attempt.job
        self._context.disk.require_space()
        match job.spec:
            case TrainSpec():
                train = messages.Train(job=job.id, spec=job.spec)
                return self._supervisor(job, slot).run(train, attempt).result
            case EvaluateSpec():
                evaluate = messages.Evaluate(job=job.id, spec=job.spec)
                return self._supervisor(job, slot).run(evaluate, attempt).result
            case EmbedSpec():
                return self._embed(attempt, job.spec, slot)

    def _embed(self, attempt: Attempt, spec: EmbedSpec, slot: Slot) -> Result:
        _, images = images_to_embed(spec, self._context.datasets, self._context.frames)
        # The division of an earlier attempt stays, because finished shards count.
        job = attempt.divide(shards_for(len(images)))
        if job.parts > 1:
            self._request_helpers(job, job.parts - 1)
        points = self._bulk_embedding(job, spec, slot).run(attempt, len(images))
        attempt.commit()
        try:
            self._publish_index(spec)
        except Unavailable as error:
            raise StepFailed(str(error)) from error
        return Result(model_version=spec.model, indexed_images=points)

    def _publish_index(self, spec: EmbedSpec) -> None:
        index, version = self._context.index, ModelRef.parse(spec.model)
        if spec.kept_frames:
            retry_until_available(lambda: index.mark_frames(version))
        retry_until_available(lambda: index.publish(version))

    def _bulk_embedding(self, job: Job, spec: EmbedSpec, slot: Slot) -> BulkEmbedding:
        tracker = ShardTracker(self._store, job.id, job.parts)
        return BulkEmbedding(job.id, spec, tracker, self._supervisor(job, slot))

    def _supervisor(self, job: Job, slot: Slot) -> StepSupervisor:
        return StepSupervisor(self._store, job, slot, self._limits, self._stopping)
