# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol, so that clients of Triton and KServe can score images unchanged.

The messages are those of https://github.com/kserve/open-inference-protocol as Triton's client package
contains them. Its extensions for load generators are implemented too: ModelConfig, ModelStatistics and
RepositoryIndex, and system shared memory. Other extensions of Triton are UNIMPLEMENTED.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import grpc.aio
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer

from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, NotFound
from blemish_server.auth.authenticator import current_caller
from blemish_server.converters.inference import (
    REGIONS,
    config_to_proto,
    inspections_to_proto,
    metadata_to_proto,
    naming_for,
    parse_images,
    parse_model,
    parse_outputs,
    parse_request_priority,
    parse_timeout,
    regions_status_to_proto,
    usage_to_proto,
    uses_shared_memory,
)
from blemish_server.scoring.frame_queue import cancel_when
from blemish_server.scoring.inspection import Inspection, QueueOptions, ScoringRequest
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.pipeline import ScoringPipeline
from blemish_server.transport.connections import StreamLifetime
from blemish_server.transport.request_context import effective_priority, queue_key
from blemish_server.transport.shared_memory import SharedMemory
from blemish_server.transport.status import message_of

SERVICE = "inference.GRPCInferenceService"
_IN_FLIGHT = 4
"""Requests of one stream in progress at once; no further one is read."""
_MAX_MODELS = 1000

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The servicer of the Open Inference Protocol."""

    def __init__(
        self,
        pipeline: ScoringPipeline,
        store: ModelStore,
        cache: ModelCache,
        is_serving: Callable[[], bool],
        lifetime: StreamLifetime,
        max_map_pixels: int,
        shared_memory: SharedMemory,
    ) -> None:
        """Read requests of streams for their ``lifetime``; a response has at most ``max_map_pixels``."""
        self._pipeline = pipeline
        self._store = store
        self._cache = cache
        self._is_serving = is_serving
        self._lifetime = lifetime
        self._max_map_pixels = max_map_pixels
        self._shared_memory = shared_memory

    async def ServerLive(self, request: Any, context: Context) -> Any:  # noqa: N802 (here and below)
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Context) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=self._is_serving())

    async def ModelReady(self, request: Any, context: Context) -> Any:  # noqa: N802
        try:
            await asyncio.to_thread(self._store.resolve, parse_model(request.name, request.version))
        except NotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._is_serving())

    async def ServerMetadata(self, request: Any, context: Context) -> Any:  # noqa: N802
        return pb.ServerMetadataResponse(
            name="blemish",
            version=version("blemish"),
            extensions=[
                *("model_configuration", "statistics", "model_repository"),
                *(["system_shared_memory"] if self._shared_memory.enabled else []),
            ],
        )

    async def ModelMetadata(self, request: Any, context: Context) -> Any:  # noqa: N802
        ref = parse_model(request.name, request.version)
        manifest = await asyncio.to_thread(self._store.manifest, ref)
        model = await asyncio.to_thread(self._store.get, manifest.model)
        return metadata_to_proto(manifest, model)

    async def ModelConfig(self, request: Any, context: Context) -> Any:  # noqa: N802
        ref = parse_model(request.name, request.version)
        return config_to_proto(await asyncio.to_thread(self._store.manifest, ref))

    async def ModelStatistics(self, request: Any, context: Context) -> Any:  # noqa: N802
        ref = parse_model(request.name, request.version) if request.name else None
        return pb.ModelStatisticsResponse(
            model_stats=[
                usage_to_proto(loaded.ref, loaded.usage)
                for loaded in self._cache.loaded
                if ref is None
                or (loaded.ref.model == ref.model and ref.version in (None, loaded.ref.version))
            ]
        )

    async def RepositoryIndex(self, request: Any, context: Context) -> Any:  # noqa: N802
        models = await asyncio.to_thread(self._store.page, "", _MAX_MODELS)
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                index(name=model.id, version=str(manifest.version), state="READY")
                for model in models
                for manifest in reversed(model.versions)
            ]
        )

    async def SystemSharedMemoryStatus(self, request: Any, context: Context) -> Any:  # noqa: N802
        regions = self._shared_memory.status(current_caller.get().name, request.name)
        return regions_status_to_proto(regions)

    async def SystemSharedMemoryRegister(self, request: Any, context: Context) -> Any:  # noqa: N802
        self._shared_memory.register(
            current_caller.get().name, request.name, request.key, request.offset, request.byte_size
        )
        return pb.SystemSharedMemoryRegisterResponse()

    async def SystemSharedMemoryUnregister(self, request: Any, context: Context) -> Any:  # noqa: N802
        self._shared_memory.unregister(current_caller.get().name, request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def ModelInfer(self, request: Any, context: Context) -> Any:  # noqa: N802
        return await self._infer(request, queue_key(context), context.time_remaining(), waits=True)

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Any]:
        """Respond in the order of the requests. An error of one does not end the stream."""
        tasks: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        slots = asyncio.Semaphore(_IN_FLIGHT)

        async def read() -> None:
            try:
                async for request in requests:
                    await slots.acquire()
                    tasks.put_nowait(
                        asyncio.create_task(self._infer_in_stream(request, queue_key(context)))
                    )
            finally:
                tasks.put_nowait(None)

        async with self._lifetime.of_stream() as ending:
            reader = asyncio.create_task(read())
            stopper = asyncio.create_task(cancel_when(ending, reader))
            task: asyncio.Task[Any] | None = None
            try:
                while (task := await tasks.get()) is not None:
                    yield await task
                    slots.release()
                await asyncio.wait({reader})
                if not reader.cancelled():
                    reader.result()  # raises if a request was malformed
            finally:
                for running in (reader, stopper, task):
                    if running is not None:
                        running.cancel()
                while not tasks.empty():
                    if (waiting := tasks.get_nowait()) is not None:
                        waiting.cancel()

    async def _infer_in_stream(self, request: Any, caller: str) -> Any:
        try:
            response = await self._infer(request, caller, None, waits=False)
        except BlemishError as error:
            refused = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
            return pb.ModelStreamInferResponse(error_message=message_of(error), infer_response=refused)
        return pb.ModelStreamInferResponse(infer_response=response)

    async def _infer(self, request: Any, caller: str, remaining_s: float | None, *, waits: bool) -> Any:
        model = parse_model(request.model_name, request.model_version)
        outputs, is_shared = parse_outputs(request), uses_shared_memory(request)
        name = current_caller.get().name
        if is_shared:
            images = await asyncio.to_thread(parse_images, request, partial(self._shared_memory.read, name))
        else:
            images = parse_images(request)
        priority = effective_priority(parse_request_priority(request))
        timeout_s = parse_timeout(request)
        if remaining_s is not None:
            timeout_s = min(timeout_s, remaining_s)
        queue = QueueOptions(caller, priority, time.monotonic() + timeout_s)
        naming, with_regions = naming_for(outputs, waits=waits), REGIONS in outputs
        requests = [
            ScoringRequest.of(image, model, queue, with_regions=with_regions, naming=naming)
            for image in images
        ]
        inspections = await _gather([self._pipeline.score(each) for each in requests])
        respond = partial(
            inspections_to_proto, request, inspections, outputs, max_map_pixels=self._max_map_pixels
        )
        if not is_shared:
            return respond()
        return await asyncio.to_thread(respond, write_shared=partial(self._shared_memory.write, name))


async def _gather(running: Sequence[Awaitable[Inspection]]) -> list[Inspection]:
    """Wait for all images of a request. If one fails, cancel the others."""
    tasks = [asyncio.ensure_future(each) for each in running]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
