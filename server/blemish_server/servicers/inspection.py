# SPDX-License-Identifier: Apache-2.0
"""InspectionService: score single images and camera streams."""

import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import grpc.aio
import structlog

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.inspection_pb2_grpc import InspectionServiceServicer
from blemish_core.calibration import checked_false_reject_rate
from blemish_core.platform.errors import BlemishError, InvalidRequest, TooLarge
from blemish_core.platform.names import ModelRef
from blemish_server.converters.inspection import (
    frame_header,
    inspection_to_proto,
    parse_capture,
    parse_max_latency,
    parse_naming,
    parse_policy,
    parse_priority,
    parse_store,
    stream_result_to_proto,
)
from blemish_server.converters.maps import map_pixels
from blemish_server.converters.watching import parse_watch
from blemish_server.metrics.activity import OpenStream
from blemish_server.metrics.server_metrics import ServerMetrics
from blemish_server.scoring.batcher import AdmissionLimit, Priority
from blemish_server.scoring.frame_queue import (
    DroppedFrames,
    FrameQueue,
    FrameSlot,
    RefusedFrame,
    Result,
    StreamPolicy,
)
from blemish_server.scoring.inspection import (
    Capture,
    NamingPolicy,
    QueueOptions,
    ScoringRequest,
    StoragePolicy,
)
from blemish_server.scoring.inspection_feed import InspectionFeed
from blemish_server.scoring.pipeline import ScoringPipeline
from blemish_server.servicers.inspection_watches import InspectionWatches
from blemish_server.transport.connections import StreamLifetime
from blemish_server.transport.request_context import effective_priority, queue_options
from blemish_server.transport.status import INTERNAL

_STOPPING = "the server is stopping; connect again, to this address or another one"
_AGED = "the connection has reached its maximum age; connect again"

log = structlog.get_logger(__name__)


class InspectionServicer(InspectionServiceServicer):
    """The servicer of InspectionService."""

    def __init__(
        self,
        pipeline: ScoringPipeline,
        feed: InspectionFeed,
        metrics: ServerMetrics,
        lifetime: StreamLifetime,
        max_message_bytes: int,
    ) -> None:
        """Read frames of streams for their ``lifetime``; send messages of at most so many bytes."""
        self._pipeline = pipeline
        self._watches = InspectionWatches(feed, metrics.activity)
        self._metrics = metrics
        self._lifetime = lifetime
        self._max_message_bytes = max_message_bytes
        self._max_map_pixels = map_pixels(max_message_bytes)

    async def Score(  # noqa: N802 (the contract's name, here and below)
        self, request: pb.ScoreRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ScoreResponse:
        inspection = await self._pipeline.score(
            ScoringRequest.of(
                parse_capture(request),
                ModelRef.parse(request.model),
                queue_options(context, parse_priority(request.priority, "priority")),
                storage=parse_store(request.store, "store"),
                with_regions=request.outputs.regions,
                with_mask=request.outputs.mask,
                with_preview=request.outputs.preview,
                naming=parse_naming(request.outputs, waits=True),
            )
        )
        message = inspection_to_proto(inspection, request.outputs, max_map_pixels=self._max_map_pixels)
        return pb.ScoreResponse(inspection=message)

    async def ScoreStream(  # noqa: N802
        self,
        requests: AsyncIterator[pb.ScoreStreamRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[pb.ScoreStreamResponse]:
        options = _FrameOptions.parse(await anext(requests, None))
        await self._pipeline.warm_up(options.model, naming=options.naming)
        scorer = _StreamScorer(self._pipeline, self._metrics, options, self._max_map_pixels)
        queue: FrameQueue[_StreamFrame, pb.Inspection] = FrameQueue(scorer.score, options.policy)
        try:
            async with self._lifetime.of_stream() as ending:
                with (
                    self._metrics.streams.track(queue),
                    self._metrics.activity.track(options.model, queue) as scorer.stream,
                ):
                    async with aclosing(
                        queue.results(_frames(requests, self._max_message_bytes), ending)
                    ) as results:
                        notes: list[str] = []
                        async for result in results:
                            self._count_uninspected(result)
                            response = stream_result_to_proto(result)
                            notes = _without_repeated_notes(response, notes)
                            yield response
            if ending.is_set():
                yield pb.ScoreStreamResponse(ending=self._ending())
        finally:
            log.info(
                "stream closed",
                model=str(options.model),
                frames=queue.frames,
                dropped=queue.dropped,
                rejected=queue.rejected,
            )

    async def WatchInspections(  # noqa: N802
        self, request: pb.WatchInspectionsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.WatchInspectionsResponse]:
        options = parse_watch(request)
        async with (
            self._lifetime.of_stream() as ending,
            aclosing(self._watches.responses(options, ending)) as responses,
        ):
            async for response in responses:
                yield response
        yield pb.WatchInspectionsResponse(ending=self._ending())

    def _ending(self) -> pb.StreamEnding:
        return pb.StreamEnding(message=_STOPPING if self._lifetime.is_stopping else _AGED)

    def _count_uninspected(self, result: Result[pb.Inspection]) -> None:
        """Count a refused frame, or dropped ones, for their camera."""
        camera = result.header.camera
        if isinstance(result, DroppedFrames):
            self._metrics.activity.dropped(camera, result.last_sequence - result.header.sequence + 1)
        elif isinstance(result, RefusedFrame):
            self._metrics.activity.refused(camera)


@dataclass(frozen=True)
class _FrameOptions:
    """The options of all frames of a stream."""

    model: ModelRef
    outputs: pb.Outputs
    policy: StreamPolicy
    false_reject_rate: float | None
    max_latency_s: float | None
    priority: Priority
    storage: StoragePolicy
    naming: NamingPolicy

    @classmethod
    def parse(cls, first: pb.ScoreStreamRequest | None) -> "_FrameOptions":
        """Return the options in the first message of a stream, which is None if there was none.

        Raises:
            InvalidRequest: if it is not a valid configuration.
            PermissionDenied: if the caller may not use the requested priority.
        """
        if first is None or first.WhichOneof("message") != "config":
            raise InvalidRequest("the first message of a stream must be its config", field="config")
        config = first.config
        rate = None
        if config.HasField("target_false_reject_rate"):
            rate = checked_false_reject_rate(config.target_false_reject_rate)
        return cls(
            ModelRef.parse(config.model),
            config.outputs,
            parse_policy(config.policy, "config.policy"),
            rate,
            parse_max_latency(config),
            effective_priority(parse_priority(config.priority, "config.priority")),
            parse_store(config.store, "config.store"),
            parse_naming(config.outputs, waits=False),
        )


class _StreamFrame:
    """A frame of a stream. The message is freed once it is parsed, so the image is held once."""

    def __init__(self, message: pb.Frame, max_message_bytes: int) -> None:
        self.header = frame_header(message)
        self._message = message
        self._max_message_bytes = max_message_bytes
        self._capture: Capture | None = None

    def capture(self, *, is_stored: bool) -> Capture:
        """Return the validated image.

        An invalid time only matters if the frame may be stored: a camera with a wrong clock gets verdicts.

        Raises:
            InvalidRequest: if a field of the frame is not valid.
            TooLarge: if the client left the image out because of its size.
        """
        if self._capture is None:
            if self._message.omitted_bytes:
                raise TooLarge(
                    f"the frame has {self._message.omitted_bytes} bytes, more than the "
                    f"{self._max_message_bytes} that BLEMISH_MAX_MESSAGE_BYTES of the server allows; "
                    "encode it, scale it down, or raise the variable"
                )
            self._capture = parse_capture(self._message, ignore_invalid_time=not is_stored)
            del self._message
        return self._capture


class _StreamScorer:
    """Scores the frames of one stream."""

    def __init__(
        self,
        pipeline: ScoringPipeline,
        metrics: ServerMetrics,
        options: _FrameOptions,
        max_map_pixels: int,
    ) -> None:
        self._pipeline = pipeline
        self._metrics = metrics
        self._options = options
        self._max_map_pixels = max_map_pixels
        self.stream: OpenStream | None = None
        """Entry among the open streams, once it is tracked."""

    async def score(self, slot: FrameSlot[_StreamFrame]) -> pb.Inspection:
        """Score the frame in a slot, and count it as refused if that fails."""
        try:
            inspection = await self._pipeline.score(self._request(slot))
            if self.stream is not None:
                self.stream.observe(inspection)
            return inspection_to_proto(
                inspection, self._options.outputs, max_map_pixels=self._max_map_pixels
            )
        except BlemishError as error:
            self._refused(error.reason)
            log.debug(
                "frame refused",
                camera=slot.header.camera,
                sequence=slot.header.sequence,
                reason=error.reason,
                detail=str(error),
            )
            raise
        except Exception:
            self._refused(INTERNAL)
            log.exception(
                "frame failed; this is a bug", camera=slot.header.camera, sequence=slot.header.sequence
            )
            raise

    def _refused(self, reason: str) -> None:
        self._metrics.refused(reason)
        if self.stream is not None:
            self.stream.refused += 1

    def _request(self, slot: FrameSlot[_StreamFrame]) -> ScoringRequest:
        options = self._options
        latest = options.policy is StreamPolicy.LATEST
        reject = options.policy is StreamPolicy.REJECT
        latency_s = options.max_latency_s
        is_stored = options.storage is not StoragePolicy.NONE

        def claim() -> Capture:
            capture = slot.claim().capture(is_stored=is_stored)
            return capture if latency_s is None else replace(capture, arrived_s=slot.arrived_s)

        return ScoringRequest(
            options.model,
            QueueOptions(
                self,
                options.priority,
                # Under LATEST a newer frame may take the slot, so the latency is checked after the claim.
                deadline=math.inf if latest else slot.arrived_s + (latency_s or math.inf),
                # A stream has few frames in flight, so it may always queue, unless it asked for rejection.
                limit=AdmissionLimit.SHORT if reject else AdmissionLimit.UNLIMITED,
            ),
            claim,
            len(slot.frame.capture(is_stored=is_stored).image.data),
            storage=options.storage,
            false_reject_rate=options.false_reject_rate,
            max_latency_s=latency_s,
            with_regions=options.outputs.regions,
            with_mask=options.outputs.mask,
            with_preview=options.outputs.preview,
            previews_good=False,
            naming=options.naming,
        )


def _without_repeated_notes(response: pb.ScoreStreamResponse, notes: list[str]) -> list[str]:
    """Remove the notes of an inspection if they equal ``notes``; return the latest ones."""
    if not response.HasField("inspection"):
        return notes
    latest = list(response.inspection.notes)
    if latest == notes:
        response.inspection.ClearField("notes")
    return latest


async def _frames(
    requests: AsyncIterator[pb.ScoreStreamRequest], max_message_bytes: int
) -> AsyncIterator[_StreamFrame]:
    async for request in requests:
        if request.WhichOneof("message") != "frame":
            raise InvalidRequest(
                "only the first message of a stream may be its config; send frames", field="config"
            )
        yield _StreamFrame(request.frame, max_message_bytes)
