# SPDX-License-Identifier: Apache-2.0
"""The Open Inference Protocol beside our own: Triton's and KServe's clients score images unchanged.

A model takes ``image``, BYTES of shape [N], each an encoded image, and answers with a value an image of
each output asked for. Messages are those of https://github.com/kserve/open-inference-protocol as Triton's
client package ships them, whose extensions for load generators (ModelConfig, ModelStatistics,
RepositoryIndex) are answered too; what else Triton has is UNIMPLEMENTED.
"""

import asyncio
import math
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import grpc.aio
import numpy as np
import structlog
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as config_pb
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceServicer

from blemish_core.imaging.image_input import ImageInput
from blemish_core.models.bundle import Manifest
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, InvalidRequest, NotFound
from blemish_core.platform.names import PRODUCTION, ModelRef, validate_id
from blemish_server.metrics.metrics import ServerMetrics
from blemish_server.scoring.batcher import Priority
from blemish_server.scoring.frame_queue import cancel_at
from blemish_server.scoring.model_cache import ModelCache, Tally
from blemish_server.scoring.scorer import Inspected, Scorer, Terms
from blemish_server.scoring.shadow import Shadow
from blemish_server.transport.request_context import effective_priority, queue_key

SERVICE = "inference.GRPCInferenceService"
INPUT = "image"
_MOST_IMAGES = 64
_AHEAD = 4
"""Requests of one stream that are worked on at once; it reads no further."""

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class _Output:
    """An output: its value for one image, and how the protocol and numpy call its type."""

    datatype: str
    dtype: str
    of: Callable[[Inspected], object]
    shape: Callable[[Manifest], list[int]] = lambda manifest: []
    """Of one image's value; -1 where it is not on the card."""
    unless_named: bool = True
    """Whether it is sent where no output is asked for by name."""


def _map_shape(manifest: Manifest) -> list[int]:
    return [manifest.input_size, manifest.input_size]


_OUTPUTS = {
    "score": _Output("FP32", "<f4", lambda done: done.outcome.score),
    "p_value": _Output(
        "FP64", "<f8", lambda done: done.calibration.calibration.p_value(done.outcome.score)
    ),
    "anomalous": _Output(
        "BOOL", "?", lambda done: done.calibration.calibration.anomalous(done.outcome.score)
    ),
    "threshold": _Output("FP32", "<f4", lambda done: done.calibration.calibration.threshold),
    "anomaly_map": _Output(
        "FP32", "<f4", lambda done: done.outcome.anomaly_map, _map_shape, unless_named=False
    ),
    "embedding": _Output(
        "FP32", "<f4", lambda done: done.outcome.embedding, lambda manifest: [-1], unless_named=False
    ),
}


class InferenceServicer(GRPCInferenceServiceServicer):  # type: ignore[misc]
    def __init__(
        self,
        inspector: Scorer,
        models: ModelStore,
        loaded: ModelCache,
        shadow: Shadow,
        monitor: ServerMetrics,
        serving: Callable[[], bool],
        ending: asyncio.Event,
    ) -> None:
        self._inspector = inspector
        self._models = models
        self._loaded = loaded
        self._shadow = shadow
        self._monitor = monitor
        self._serving = serving
        self._ending = ending

    async def ServerLive(self, request: Any, context: Context) -> Any:  # noqa: N802 (here and below)
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Context) -> Any:  # noqa: N802
        return pb.ServerReadyResponse(ready=self._serving())

    async def ModelReady(self, request: Any, context: Context) -> Any:  # noqa: N802
        try:
            await asyncio.to_thread(self._models.resolve, _ref(request.name, request.version))
        except NotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._serving())

    async def ServerMetadata(self, request: Any, context: Context) -> Any:  # noqa: N802
        return pb.ServerMetadataResponse(
            name="blemish",
            version=version("blemish"),
            extensions=["model_configuration", "statistics", "model_repository"],
        )

    async def ModelMetadata(self, request: Any, context: Context) -> Any:  # noqa: N802
        ref = _ref(request.name, request.version)
        manifest = await asyncio.to_thread(self._models.manifest, ref)
        model = await asyncio.to_thread(self._models.get, manifest.model)
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=manifest.model,
            versions=[str(one.version) for one in reversed(model.versions)],
            platform=f"blemish_{manifest.detector}",
            inputs=[tensor(name=INPUT, datatype="BYTES", shape=[-1])],
            outputs=[
                tensor(name=name, datatype=output.datatype, shape=[-1, *output.shape(manifest)])
                for name, output in _OUTPUTS.items()
            ],
        )

    async def ModelConfig(self, request: Any, context: Context) -> Any:  # noqa: N802
        ref = _ref(request.name, request.version)
        manifest = await asyncio.to_thread(self._models.manifest, ref)
        types = {"BYTES": config_pb.TYPE_STRING} | {
            name: config_pb.DataType.Value(f"TYPE_{name}") for name in ("FP32", "FP64", "BOOL")
        }
        return pb.ModelConfigResponse(
            config=config_pb.ModelConfig(
                name=manifest.model,
                platform=f"blemish_{manifest.detector}",
                max_batch_size=_MOST_IMAGES,
                # The images of a request are a batch to Triton, whose dims leave it out.
                input=[config_pb.ModelInput(name=INPUT, data_type=types["BYTES"], dims=[1])],
                output=[
                    config_pb.ModelOutput(
                        name=name, data_type=types[output.datatype], dims=output.shape(manifest) or [1]
                    )
                    for name, output in _OUTPUTS.items()
                ],
            )
        )

    async def ModelStatistics(self, request: Any, context: Context) -> Any:  # noqa: N802
        asked = _ref(request.name, request.version) if request.name else None
        return pb.ModelStatisticsResponse(
            model_stats=[
                _statistics(ref, tally)
                for ref, tally in self._loaded.tallies.items()
                if asked is None or (ref.model == asked.model and asked.version in (None, ref.version))
            ]
        )

    async def RepositoryIndex(self, request: Any, context: Context) -> Any:  # noqa: N802
        found = await asyncio.to_thread(self._models.page, "", 1000)
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                index(name=model.id, version=str(manifest.version), state="READY")
                for model in found
                for manifest in reversed(model.versions)
            ]
        )

    async def ModelInfer(self, request: Any, context: Context) -> Any:  # noqa: N802
        return await self._inferred(request, queue_key(context), context.time_remaining())

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[Any], context: Context
    ) -> AsyncIterator[Any]:
        """Answer in the order of the requests; a fault of one ends nothing."""
        tasks: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue()
        room = asyncio.Semaphore(_AHEAD)

        async def read() -> None:
            try:
                async for request in requests:
                    await room.acquire()
                    tasks.put_nowait(asyncio.create_task(self._streamed(request, queue_key(context))))
            finally:
                tasks.put_nowait(None)

        reader = asyncio.create_task(read())
        stopper = asyncio.create_task(cancel_at(self._ending, reader))
        task: asyncio.Task[Any] | None = None
        try:
            while (task := await tasks.get()) is not None:
                yield await task
                room.release()
        finally:
            for running in (reader, stopper, task):
                if running is not None:
                    running.cancel()
            while not tasks.empty():
                if (waiting := tasks.get_nowait()) is not None:
                    waiting.cancel()

    async def _streamed(self, request: Any, caller: str) -> Any:
        try:
            answer = await self._inferred(request, caller, None)
        except BlemishError as error:
            refused = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
            return pb.ModelStreamInferResponse(error_message=str(error), infer_response=refused)
        return pb.ModelStreamInferResponse(infer_response=answer)

    async def _inferred(self, request: Any, caller: str, left_s: float | None) -> Any:
        ref = _ref(request.model_name, request.model_version)
        pictures, names = _images(request), _asked(request)
        terms = _terms(request, caller, left_s)
        inspected = await _all([self._inspector.inspect(picture, ref, terms) for picture in pictures])
        for picture, done in zip(pictures, inspected, strict=True):
            self._monitor.judged(done)
            self._shadow.offer(partial(_shown, picture), done, "")
        answer = pb.ModelInferResponse(
            model_name=ref.model, model_version=str(inspected[0].manifest.version), id=request.id
        )
        for name in names:
            output = _OUTPUTS[name]
            values: NDArray[Any] = np.stack(
                [np.asarray(output.of(done), output.dtype) for done in inspected]
            )
            answer.outputs.add(name=name, datatype=output.datatype, shape=values.shape)
            answer.raw_output_contents.append(values.tobytes())
        return answer


def _ref(name: str, number: str) -> ModelRef:
    """A model's id, and a version of it, ``production``, or what is current."""
    validate_id(name, "model_name")
    if number in ("", PRODUCTION):
        return ModelRef(name, None, number or None)
    return ModelRef.parse(f"models/{name}/versions/{number}", "model_version")


def _images(request: Any) -> list[ImageInput]:
    """The images of a request, in either of the two ways in which it may hold them."""
    if [tensor.name for tensor in request.inputs] != [INPUT]:
        raise InvalidRequest(f"a request has one input, {INPUT!r}; see ModelMetadata", field="inputs")
    tensor = request.inputs[0]
    if tensor.datatype != "BYTES":
        raise InvalidRequest(
            f"{INPUT} is {tensor.datatype}, but must be BYTES: encoded images", field="inputs.datatype"
        )
    if request.raw_input_contents:
        images = list(_unpacked(request.raw_input_contents[0]))
    else:
        images = list(tensor.contents.bytes_contents)
    if math.prod(tensor.shape) != len(images) or not 1 <= len(images) <= _MOST_IMAGES:
        raise InvalidRequest(
            f"the shape is {list(tensor.shape)} and {len(images)} images came; send 1 to {_MOST_IMAGES}, "
            "and their number as the shape",
            field="inputs.shape",
        )
    return [ImageInput(image) for image in images]


def _unpacked(packed: bytes) -> Iterator[bytes]:
    """Elements with their length before them, 4 bytes little endian, as the protocol's BYTES are."""
    start = 0
    while start < len(packed):
        end = start + 4
        if end <= len(packed):
            (length,) = struct.unpack_from("<I", packed, start)
            start, end = end, end + length
        if end > len(packed):
            raise InvalidRequest(
                "raw_input_contents ends within an element; each is 4 bytes of length, little endian, and "
                "so many bytes",
                field="raw_input_contents",
            )
        yield packed[start:end]
        start = end


def _asked(request: Any) -> list[str]:
    names = [output.name for output in request.outputs]
    for name in names:
        if name not in _OUTPUTS:
            raise InvalidRequest(
                f"there is no output {name[:40]!r}; there is {', '.join(_OUTPUTS)}", field="outputs"
            )
    return names or [name for name, output in _OUTPUTS.items() if output.unless_named]


def _terms(request: Any, caller: str, left_s: float | None) -> Terms:
    """Triton's ``priority`` (1 is highest) and ``timeout`` (us), and the deadline of the call."""
    given = request.parameters  # a map that makes what is looked up
    number = given["priority"].uint64_param or given["priority"].int64_param if "priority" in given else 0
    if not 0 <= number <= len(Priority):
        raise InvalidRequest(
            f"priority is {number}, but must be 1 (line stop), 2 (audit) or 3 (backfill)",
            field="parameters.priority",
        )
    limits = [math.inf if left_s is None else left_s]
    if "timeout" in given and (timeout_us := given["timeout"].int64_param):
        limits.append(timeout_us / 1e6)
    priority = effective_priority(Priority(number - 1) if number else None)
    return Terms(caller, priority, time.monotonic() + min(limits))


def _shown(picture: ImageInput) -> tuple[ImageInput, None]:
    """What a shadow is shown: the protocol tells no time."""
    return picture, None


async def _all(running: Sequence[Awaitable[Inspected]]) -> list[Inspected]:
    """Wait for all images of one request, or for the first that fails."""
    tasks = [asyncio.ensure_future(one) for one in running]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _statistics(ref: ModelRef, tally: Tally) -> Any:
    def spent(seconds: float) -> Any:
        return pb.StatisticDuration(count=tally.images, ns=int(seconds * 1e9))

    return pb.ModelStatistics(
        name=ref.model,
        version=str(ref.version),
        last_inference=int(tally.last * 1000),
        inference_count=tally.images,
        execution_count=tally.images,
        inference_stats=pb.InferStatistics(
            success=spent(tally.queue_s + tally.decode_s + tally.inference_s),
            queue=spent(tally.queue_s),
            compute_input=spent(tally.decode_s),
            compute_infer=spent(tally.inference_s),
        ),
    )
