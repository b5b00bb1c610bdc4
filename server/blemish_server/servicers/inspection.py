# SPDX-License-Identifier: Apache-2.0
"""InspectionService: score images, one by one or as a camera sends them."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any

import grpc.aio
import structlog

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.inspection_pb2_grpc import InspectionServiceServicer
from blemish_core.calibration import checked_false_reject_rate
from blemish_core.imaging.image_input import ImageInput
from blemish_core.platform.errors import BlemishError, DeadlineExceeded, InvalidRequest
from blemish_core.platform.names import ModelRef
from blemish_server.converters.inspection import (
    inspection_to_proto,
    parse_capture_time,
    parse_image,
    parse_priority,
    parse_store,
)
from blemish_server.metrics.metrics import ServerMetrics
from blemish_server.scoring.batcher import Patience, Priority
from blemish_server.scoring.frame_queue import IN_FLIGHT, FrameQueue, FrameSlot, answer_to
from blemish_server.scoring.frame_recorder import FrameRecorder
from blemish_server.scoring.scorer import Inspected, Scorer, Terms
from blemish_server.scoring.shadow import Shadow
from blemish_server.transport.request_context import effective_priority, queue_options
from blemish_server.transport.status import frame_refusal

_LONGEST_CAMERA = 128
_INTERNAL = "INTERNAL"
_ENDING = "the server is about to stop; connect again, to this address or the next"

log = structlog.get_logger(__name__)


class InspectionServicer(InspectionServiceServicer):
    def __init__(
        self,
        inspector: Scorer,
        keeper: FrameRecorder,
        shadow: Shadow,
        monitor: ServerMetrics,
        ending: asyncio.Event,
    ) -> None:
        """Take frames until ``ending``."""
        self._inspector = inspector
        self._keeper = keeper
        self._shadow = shadow
        self._monitor = monitor
        self._ending = ending

    async def Score(  # noqa: N802 (the contract's name, here and below)
        self, request: pb.ScoreRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ScoreResponse:
        ref = ModelRef.parse(request.model)
        picture = parse_image(request.image, "image")
        wanted = parse_store(request.store, "store")
        _check_camera(request.camera)
        taken = parse_capture_time(request, "capture_time")
        terms = queue_options(context, parse_priority(request.priority, "priority"))
        done = await self._inspector.inspect(picture, ref, terms)
        self._monitor.judged(done, request.camera)
        if wanted(done):
            self._keeper.offer(picture, done, request.camera, taken)
        self._shadow.offer(lambda: (picture, taken), done, request.camera)
        return pb.ScoreResponse(inspection=inspection_to_proto(done, request.outputs))

    async def ScoreStream(  # noqa: N802
        self,
        requests: AsyncIterator[pb.ScoreStreamRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[pb.ScoreStreamResponse]:
        config = _Config.of(await anext(requests, None))
        await self._inspector.ready(config.ref)
        scorer = _Scorer(self._inspector, self._keeper, self._shadow, self._monitor, config)
        line = FrameQueue(scorer, config.policy)
        try:
            with self._monitor.streams.opened(line):
                async with aclosing(line.answers(_frames(requests), self._ending)) as answers:
                    async for answer in answers:
                        yield answer
            if self._ending.is_set():
                yield pb.ScoreStreamResponse(ending=pb.StreamEnding(message=_ENDING))
        finally:
            log.info(
                "stream ended",
                model=str(config.ref),
                frames=line.frames,
                dropped=line.dropped,
                rejected=line.rejected,
            )


@dataclass(frozen=True)
class _Config:
    """What holds for all frames of a stream."""

    ref: ModelRef
    outputs: pb.Outputs
    policy: pb.StreamPolicy.ValueType
    false_reject_rate: float | None
    max_latency_s: float | None
    priority: Priority
    store: Callable[[Inspected], bool]

    @classmethod
    def of(cls, first: pb.ScoreStreamRequest | None) -> "_Config":
        """Read the first message of a stream, None if there was none.

        Raises:
            InvalidRequest: if it is no sound configuration.
            PermissionDenied: if its caller may not ask for such a priority.
        """
        if first is None or first.WhichOneof("message") != "config":
            raise InvalidRequest("the first message of a stream must be its config", field="config")
        config = first.config
        policy = config.policy or pb.STREAM_POLICY_LATEST
        if policy not in IN_FLIGHT:
            raise InvalidRequest(
                f"policy is {policy}, but must be LATEST, BLOCK or REJECT", field="config.policy"
            )
        rate = None
        if config.HasField("target_false_reject_rate"):
            rate = checked_false_reject_rate(config.target_false_reject_rate)
        # Not ToTimedelta: it fails on durations that a timedelta cannot hold.
        latency_s = config.max_latency.seconds + config.max_latency.nanos / 1e9
        if latency_s < 0:
            raise InvalidRequest("max_latency must not be negative", field="config.max_latency")
        return cls(
            ModelRef.parse(config.model),
            config.outputs,
            policy,
            rate,
            latency_s or None,
            effective_priority(parse_priority(config.priority, "config.priority")),
            parse_store(config.store, "config.store"),
        )


class _Scorer:
    """Answers one frame, whatever becomes of it."""

    def __init__(
        self,
        inspector: Scorer,
        keeper: FrameRecorder,
        shadow: Shadow,
        monitor: ServerMetrics,
        config: _Config,
    ) -> None:
        self._inspector = inspector
        self._keeper = keeper
        self._shadow = shadow
        self._monitor = monitor
        self._config = config

    async def __call__(self, turn: FrameSlot) -> pb.ScoreStreamResponse:
        try:
            done = await self._inspected(turn)
            self._check_latency(turn)
            frame = turn.take()
            self._monitor.judged(done, frame.camera)
            if self._config.store(done):
                taken = parse_capture_time(frame, "capture_time")
                self._keeper.offer(turn.picture(), done, frame.camera, taken)
            if self._config.false_reject_rate is None:
                self._shadow.offer(partial(_shown, turn.picture(), frame), done, frame.camera)
            return answer_to(frame, inspection=inspection_to_proto(done, self._config.outputs))
        except BlemishError as error:
            frame = turn.take()
            self._monitor.refused(error.reason)
            log.debug(
                "frame refused",
                camera=frame.camera,
                sequence=frame.sequence,
                reason=error.reason,
                detail=str(error),
            )
            return answer_to(frame, refusal=frame_refusal(error))
        except Exception:
            frame = turn.take()
            log.exception("a frame failed; this is a bug", camera=frame.camera, sequence=frame.sequence)
            self._monitor.refused(_INTERNAL)
            return answer_to(frame, refusal=_internal())

    async def _inspected(self, turn: FrameSlot) -> Inspected:
        config = self._config
        latest = config.policy == pb.STREAM_POLICY_LATEST
        terms = Terms(
            self,
            config.priority,
            # Under LATEST the frame that waits is not the one that will be scored: looked at in ``_taken``.
            deadline=math.inf if latest else turn.arrived_s + (config.max_latency_s or math.inf),
            # A stream has a few frames in flight and no more: where others wait too it waits with them,
            # unless it asked to be refused.
            patience=Patience.NONE if config.policy == pb.STREAM_POLICY_REJECT else Patience.ENDLESS,
        )
        size = len(turn.picture().data)
        done = await self._inspector.inspect_taken(lambda: self._taken(turn), size, config.ref, terms)
        if config.false_reject_rate is None:
            return done
        judge = done.calibration.calibration.at_false_reject_rate(config.false_reject_rate)
        return replace(done, calibration=replace(done.calibration, calibration=judge))

    def _taken(self, turn: FrameSlot) -> ImageInput:
        """Return the picture of the frame whose turn has come."""
        frame = turn.take()
        self._check_latency(turn)
        _check_camera(frame.camera)
        return turn.picture()

    def _check_latency(self, turn: FrameSlot) -> None:
        limit_s = self._config.max_latency_s
        if limit_s is not None and time.monotonic() > turn.arrived_s + limit_s:
            raise DeadlineExceeded(
                f"not answered within the stream's max_latency of {limit_s:g} s; send fewer frames, or "
                "allow more time"
            )


def _shown(picture: ImageInput, frame: pb.Frame) -> tuple[ImageInput, datetime | None]:
    """What a shadow is shown of a frame that was answered, whatever its time is worth."""
    try:
        taken = parse_capture_time(frame, "capture_time")
    except InvalidRequest:
        taken = None
    return picture, taken


def _check_camera(name: str) -> None:
    if len(name) > _LONGEST_CAMERA:
        raise InvalidRequest(
            f"camera has {len(name)} characters, but may have {_LONGEST_CAMERA}", field="camera"
        )


async def _frames(requests: AsyncIterator[pb.ScoreStreamRequest]) -> AsyncIterator[pb.Frame]:
    async for request in requests:
        if request.WhichOneof("message") != "frame":
            raise InvalidRequest("only the first message of a stream may be its config", field="config")
        yield request.frame


def _internal() -> pb.FrameRefusal:
    code: int
    code, _ = grpc.StatusCode.INTERNAL.value
    return pb.FrameRefusal(
        code=code, message="internal error; the server's log tells more", reason=_INTERNAL
    )
