# SPDX-License-Identifier: Apache-2.0
"""JobService: slow work, accepted here and done by the workers."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc.aio
import structlog

from blemish.v1 import job_pb2 as pb
from blemish.v1.job_pb2_grpc import JobServiceServicer
from blemish_core.datasets import DatasetStore
from blemish_core.errors import InvalidRequest
from blemish_core.jobs.check import checked
from blemish_core.jobs.record import Job, JobState, Spec
from blemish_core.jobs.store import JobStore
from blemish_core.models import ModelStore
from blemish_core.names import job_id
from blemish_server import convert
from blemish_server.dispatch import Dispatcher
from blemish_server.feed import JobFeed
from blemish_server.pages import Page

log = structlog.get_logger(__name__)

_STATE_OF_MESSAGE = {message: state for state, message in convert.STATES.items()}


class JobServicer(JobServiceServicer):
    def __init__(
        self,
        jobs: JobStore,
        feed: JobFeed,
        dispatcher: Dispatcher,
        datasets: DatasetStore,
        models: ModelStore,
    ) -> None:
        self._jobs = jobs
        self._feed = feed
        self._dispatcher = dispatcher
        self._datasets = datasets
        self._models = models

    async def CreateJob(  # noqa: N802
        self, request: pb.CreateJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateJobResponse:
        spec = convert.spec(request)
        job = await asyncio.to_thread(self._accept, spec, request.request_id)
        return pb.CreateJobResponse(job=convert.job(job))

    def _accept(self, spec: Spec, request_id: str) -> Job:
        settle = partial(checked, datasets=self._datasets, models=self._models)
        job, is_new = self._jobs.create(spec, request_id, settle)
        # An earlier try may have written the job and failed to tell the workers.
        if is_new or (job.state is JobState.QUEUED and job.attempt == 0):
            self._dispatcher.send(job)
        log.info("job accepted", job=job.id, kind=spec.kind, new=is_new)
        return job

    async def GetJob(  # noqa: N802
        self, request: pb.GetJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetJobResponse:
        job = await asyncio.to_thread(self._jobs.get, job_id(request.name))
        return pb.GetJobResponse(job=convert.job(job))

    async def ListJobs(  # noqa: N802
        self, request: pb.ListJobsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListJobsResponse:
        page = Page.asked("jobs", request.page_size, request.page_token)
        unknown = [state for state in request.states if state not in _STATE_OF_MESSAGE]
        if unknown:
            raise InvalidRequest(f"{unknown[0]} is no job state", field="states")
        states = [_STATE_OF_MESSAGE[state] for state in request.states]
        found = await asyncio.to_thread(self._jobs.page, page.after, page.size + 1, states)
        shown = found[: page.size]
        return pb.ListJobsResponse(
            jobs=map(convert.job, shown),
            next_page_token=page.token(shown[-1].id) if len(found) > page.size else "",
        )

    async def WatchJob(  # noqa: N802
        self, request: pb.WatchJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.WatchJobResponse]:
        async for job in self._feed.watch(job_id(request.name)):
            yield pb.WatchJobResponse(job=convert.job(job))

    async def CancelJob(  # noqa: N802
        self, request: pb.CancelJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CancelJobResponse:
        job = await asyncio.to_thread(self._jobs.cancel, job_id(request.name))
        return pb.CancelJobResponse(job=convert.job(job))
