# SPDX-License-Identifier: Apache-2.0
"""Run one job from its id to its last state. Delivering an id twice does no harm."""

import shutil

import structlog

from blemish_core.errors import JobCancelled
from blemish_core.jobs import work
from blemish_core.jobs.attempt import Attempt, Superseded
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, Job, JobState, Result, TrainSpec
from blemish_core.jobs.store import JobStore
from blemish_core.jobs.work import Workplace

log = structlog.get_logger(__name__)


def run_job(store: JobStore, place: Workplace, job_id: str) -> None:
    """Work on a job, unless it has ended or somebody else is at it.

    Raises:
        LeaseHeld: if another worker is at it; deliver it again later.
        Unavailable: if Redis does not answer; likewise.
    """
    with structlog.contextvars.bound_contextvars(job=job_id), Attempt(store, job_id) as attempt:
        job = attempt.begin()
        if job is None:
            log.info("nothing to do")
            _forget(place, job_id)
            return
        log.info("job begins", kind=job.spec.kind, attempt=job.attempt)
        try:
            _to_the_end(place, job, attempt)
        except Superseded:
            log.warning("job was taken over by another worker")
        else:
            _forget(place, job_id)


def _forget(place: Workplace, job_id: str) -> None:
    """Drop what was kept for another attempt at a job that has ended."""
    shutil.rmtree(place.checkpoints / job_id, ignore_errors=True)


def _to_the_end(place: Workplace, job: Job, attempt: Attempt) -> None:
    try:
        result = _work(place, job, attempt)
    except JobCancelled:
        attempt.finish(JobState.CANCELLED)
        log.info("job cancelled")
    except Superseded:
        raise
    except Exception as error:
        log.exception("job failed")
        told = work.reason(error) or "internal error; the worker's log tells more under this job's id"
        attempt.finish(JobState.FAILED, error=told)
    else:
        attempt.finish(JobState.SUCCEEDED, result=result)
        log.info("job succeeded")


def _work(place: Workplace, job: Job, attempt: Attempt) -> Result:
    match job.spec:
        case TrainSpec():
            return work.train(place, job.spec, job.id, attempt.progress, attempt.warn)
        case EmbedSpec():
            return work.embed(place, job.spec, attempt.progress, attempt.warn)
        case EvaluateSpec():
            return work.evaluate(place, job.spec, job.id, attempt.progress, attempt.warn)
