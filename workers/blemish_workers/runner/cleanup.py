# SPDX-License-Identifier: Apache-2.0
"""The deletion of files and points that a job leaves behind."""

import shutil

import structlog

from blemish_core.jobs.context import JobContext
from blemish_core.jobs.record import EmbedSpec, Job, JobState
from blemish_core.jobs.retry import retry_until_available
from blemish_core.platform.errors import Unavailable
from blemish_core.platform.names import ModelRef

log = structlog.get_logger(__name__)


def discard_staged_files(context: JobContext, job: Job) -> None:
    """Delete the folders of versions and reports that attempts at a job left unfinished."""
    context.models.discard(job.id)


def clean_up(context: JobContext, job: Job) -> None:
    """Delete what an ended job leaves behind: checkpoints, and the output of one that did not succeed.

    A job that has not ended keeps everything. If Qdrant does not answer for a minute, the points of a
    failed embedding stay.
    """
    if not job.state.ended:
        return
    shutil.rmtree(context.checkpoints / job.id, ignore_errors=True)
    discard_staged_files(context, job)
    if job.state is JobState.SUCCEEDED or not isinstance(job.spec, EmbedSpec) or not job.parts:
        return
    version = ModelRef.parse(job.spec.model)
    try:
        retry_until_available(lambda: context.index.discard(version, job.id))
    except Unavailable as error:
        log.warning("cleanup failed", error=str(error))
