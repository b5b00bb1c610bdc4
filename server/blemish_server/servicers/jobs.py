# SPDX-License-Identifier: Apache-2.0
"""JobService: long-running work, accepted here and done by the workers."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import grpc.aio
import structlog

from blemish.v1 import job_pb2 as pb
from blemish.v1.job_pb2_grpc import JobServiceServicer
from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.jobs.estimate import slowest, speeds_of
from blemish_core.jobs.queues import QUEUES, queue_order
from blemish_core.jobs.record import (
    EmbedSpec,
    Job,
    JobPriority,
    JobState,
    Limits,
    Spec,
    TrainSpec,
    pattern_of,
)
from blemish_core.jobs.store import JobStore
from blemish_core.jobs.validation import validate_spec
from blemish_core.jobs.worker_registry import WorkerRegistry
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest
from blemish_core.platform.names import ModelRef, job_id
from blemish_core.search.frame_store import FrameStore
from blemish_server.auth.access import Caller
from blemish_server.auth.authenticator import current_caller
from blemish_server.auth.limits import CallerLimiter
from blemish_server.converters.jobs import (
    estimate_to_proto,
    job_to_proto,
    parse_limits,
    parse_mask,
    parse_priority,
    parse_reference,
    parse_spec,
    parse_states,
    parse_training,
    worker_to_proto,
)
from blemish_server.disk_monitor import DiskMonitor
from blemish_server.jobs.dispatch import Dispatcher
from blemish_server.jobs.job_events import JobEvents
from blemish_server.transport.pagination import Page

log = structlog.get_logger(__name__)


class JobServicer(JobServiceServicer):
    """JobService on the job records in Redis."""

    def __init__(
        self,
        jobs: JobStore,
        registry: WorkerRegistry,
        events: JobEvents,
        dispatcher: Dispatcher,
        datasets: DatasetStore,
        frames: FrameStore,
        models: ModelStore,
        weights: Path,
        image_limits: ImageLimits,
        limiter: CallerLimiter,
        disk: DiskMonitor,
    ) -> None:
        self._jobs = jobs
        self._registry = registry
        self._events = events
        self._dispatcher = dispatcher
        self._datasets = datasets
        self._frames = frames
        self._models = models
        self._weights = weights
        self._image_limits = image_limits
        self._limiter = limiter
        self._disk = disk
        self._creating = threading.Lock()

    async def CreateJob(  # noqa: N802
        self, request: pb.CreateJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateJobResponse:
        spec, priority = parse_spec(request), parse_priority(request.priority)
        limits = parse_limits(request.limits)
        if isinstance(spec, TrainSpec):
            spec = await asyncio.to_thread(self._with_mask, spec, request.train)
        job = await asyncio.to_thread(self._accept, spec, request.request_id, priority, limits)
        return pb.CreateJobResponse(job=job_to_proto(job))

    async def EstimateTraining(  # noqa: N802
        self, request: pb.EstimateTrainingRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EstimateTrainingResponse:
        return await asyncio.to_thread(self._estimate, parse_training(request.train))

    def _estimate(self, requested: TrainSpec) -> pb.EstimateTrainingResponse:
        """Return the estimate of a training, which is validated as a job would be."""
        spec = validate_spec(
            requested, self._datasets, self._frames, self._models, self._weights, self._image_limits
        )
        assert isinstance(spec, TrainSpec)
        train, test = (
            [(image.height, image.width) for image in self._datasets.images(spec.dataset, split)]
            for split in ("train", "test")
        )
        workers, earlier = self._registry.workers(), self._jobs.phase_seconds(pattern_of(spec))
        try:
            speed, estimate = slowest(spec, train, test, speeds_of(workers), earlier)
        except FailedPrecondition as error:
            return pb.EstimateTrainingResponse(reason=str(error))
        return pb.EstimateTrainingResponse(estimate=estimate_to_proto(speed, estimate))

    def create_migration_job(self, spec: EmbedSpec, request_id: str) -> Job:
        """Create a job of low priority that adds to the index of a promoted version."""
        return self._accept(spec, request_id, JobPriority.LOW, Limits())

    def _with_mask(self, spec: TrainSpec, train: pb.Train) -> TrainSpec:
        """Store the mask of a training, which its record only describes."""
        if train.mask.WhichOneof("content") == "version":
            return spec.model_copy(update={"mask": self._mask_of_version(train)})
        mask = parse_mask(train, self._image_limits)
        if mask is None:
            return spec
        png = mask.to_png()
        summary = mask.summary().model_copy(update={"reference": parse_reference(train.mask)})
        self._models.keep_mask(png, summary.sha256)
        return spec.model_copy(update={"mask": summary})

    def _mask_of_version(self, train: pb.Train) -> MaskSummary:
        field = "train.mask.version"
        manifest = self._models.manifest(ModelRef.parse(train.mask.version, field))
        if manifest.mask is None:
            raise InvalidRequest(f"{manifest.name} has no mask; name a version with one", field=field)
        self._models.keep_mask(self._models.mask_of(manifest), manifest.mask.sha256)
        if train.mask.HasField("alignment"):
            return manifest.mask.model_copy(update={"reference": parse_reference(train.mask)})
        return manifest.mask

    def _accept(self, spec: Spec, request_id: str, priority: JobPriority, limits: Limits) -> Job:
        caller = current_caller.get()

        def validate(new: Spec) -> Spec:
            self._disk.require_space()
            self._check_queued_jobs(caller)
            return validate_spec(
                new, self._datasets, self._frames, self._models, self._weights, self._image_limits
            )

        # Two jobs at once could each be the last that a limit allows.
        with self._creating if caller.limits.queued_jobs is not None else nullcontext():
            job, is_new = self._jobs.create(spec, request_id, validate, priority, limits, by=caller.name)
        # An earlier request may have created the job and failed to queue it.
        if is_new or (job.state is JobState.QUEUED and job.attempt == 0):
            self._dispatcher.send(job)
        log.info("job accepted", job=job.id, kind=spec.kind, new=is_new)
        return job

    def _check_queued_jobs(self, caller: Caller) -> None:
        if caller.limits.queued_jobs is not None:
            queued = [job for job in self._jobs.unfinished() if job.state is JobState.QUEUED]
            own = sum(job.requested_by == caller.name for job in queued)
            self._limiter.refuse_job(caller.name, caller.limits, own)

    async def GetJob(  # noqa: N802
        self, request: pb.GetJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetJobResponse:
        job = await asyncio.to_thread(self._jobs.get, job_id(request.name))
        (message,) = await asyncio.to_thread(self._with_positions, [job])
        return pb.GetJobResponse(job=message)

    async def ListJobs(  # noqa: N802
        self, request: pb.ListJobsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListJobsResponse:
        page = Page.parse("jobs", request.page_size, request.page_token)
        states = parse_states(request.states)
        found = await asyncio.to_thread(self._jobs.page, page.after, page.size + 1, states)
        jobs, token = page.cut(found, lambda job: job.id)
        return pb.ListJobsResponse(
            jobs=await asyncio.to_thread(self._with_positions, jobs), next_page_token=token
        )

    def _with_positions(self, jobs: Sequence[Job]) -> list[pb.Job]:
        """Return the messages of jobs; a queued job's has its position in the queue."""
        positions: dict[str, int] = {}
        if any(job.state is JobState.QUEUED for job in jobs):
            ahead: defaultdict[str, int] = defaultdict(int)
            waiting = [job for job in self._jobs.unfinished() if job.state is JobState.QUEUED]
            for job in sorted(waiting, key=queue_order):
                queue = QUEUES[job.spec.kind]
                ahead[queue] += 1
                positions[job.id] = ahead[queue]
        messages = [job_to_proto(job) for job in jobs]
        for job, message in zip(jobs, messages, strict=True):
            message.queue_position = positions.get(job.id, 0)
        return messages

    async def WatchJob(  # noqa: N802
        self, request: pb.WatchJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.WatchJobResponse]:
        after = request.after_revision if request.HasField("after_revision") else None
        after_line = request.after_line if request.log else None
        async for response in self._events.watch(job_id(request.name), after, after_line):
            yield response

    async def CancelJob(  # noqa: N802
        self, request: pb.CancelJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CancelJobResponse:
        job = await asyncio.to_thread(self._jobs.cancel, job_id(request.name), current_caller.get().name)
        return pb.CancelJobResponse(job=job_to_proto(job))

    async def ListWorkers(  # noqa: N802
        self, request: pb.ListWorkersRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListWorkersResponse:
        workers = await asyncio.to_thread(self._registry.workers)
        return pb.ListWorkersResponse(workers=map(worker_to_proto, workers))
