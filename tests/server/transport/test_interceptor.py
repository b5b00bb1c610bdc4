# SPDX-License-Identifier: Apache-2.0
import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from blemish.v1.inspection_pb2 import ScoreRequest, ScoreStreamRequest
from blemish_server.audit.log import AuditLog
from blemish_server.audit.recorder import AuditRecorder
from blemish_server.auth import access
from blemish_server.auth.access import Role
from blemish_server.auth.authenticator import Authenticator
from blemish_server.auth.limits import NO_LIMITS, CallerLimiter, CallerLimits
from blemish_server.metrics.server_metrics import ServerMetrics
from blemish_server.transport.auditing import CallAuditor
from blemish_server.transport.interceptor import CallInterceptor

SCORE, HEALTH = "/blemish.v1.InspectionService/Score", "/grpc.health.v1.Health/Check"
STREAM = "/blemish.v1.InspectionService/ScoreStream"


class CallDetails(grpc.HandlerCallDetails):
    """The method of a call with a token."""

    def __init__(self, method: str, token: str) -> None:
        self.method = method
        self.invocation_metadata = (("authorization", f"Bearer {token}"),)


class Ended(Exception):
    """Raised in place of gRPC's AbortError."""


class Context:
    """A call's context that records the status it was aborted with."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.OK
        self.status = Status()

    async def abort(
        self, code: grpc.StatusCode, details: str, metadata: tuple[tuple[str, bytes], ...]
    ) -> None:
        self.code = code
        self.status.ParseFromString(dict(metadata)["grpc-status-details-bin"])
        raise Ended

    def peer(self) -> str:
        return "unix:"

    def time_remaining(self) -> None:
        return None


class Server:
    """An interceptor and its metrics, with a caller and its token."""

    def __init__(self, folder: Path, limits: CallerLimits = NO_LIMITS) -> None:
        self.metrics = ServerMetrics()
        self.token = access.grant(folder / "callers.json", "press-7", Role.CAMERA, limits=limits)
        self.stopping = False
        self.interceptor = CallInterceptor(
            Authenticator(folder / "callers.json"),
            CallerLimiter(self.metrics.call_limited, self.metrics.message_throttled),
            CallAuditor(AuditRecorder(AuditLog(folder / "audit"))),
            self.metrics,
            lambda: self.stopping,
            request_timeout_s=0.2,
        )

    async def handler(self, method: str, made: Any) -> Any:
        """Return the handler of a call whose original handler is ``made``."""

        async def original(details: Any) -> Any:
            return made

        return await self.interceptor.intercept_service(original, CallDetails(method, self.token))

    async def score(self) -> tuple[Any, "Context"]:
        """Score an image, and return the response and the context."""
        context = Context()
        handler = await self.handler(SCORE, grpc.unary_unary_rpc_method_handler(scored))
        sent = requests(ScoreRequest(model="m"))
        try:
            if handler.response_streaming:  # rejects the call
                return await anext(handler.stream_stream(sent, context)), context
            return await handler.stream_unary(sent, context), context
        except Ended:
            return None, context

    def counted(self, name: str, limit: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"limit": limit}) or 0.0


async def requests(*messages: Any, pause_s: float = 0.0) -> AsyncIterator[Any]:
    for message in messages:
        yield message
        await asyncio.sleep(pause_s)


async def silence() -> AsyncIterator[Any]:
    await asyncio.sleep(60)
    yield None


async def scored(request: object, context: object) -> str:
    return "scored"


async def streamed(frames: AsyncIterator[Any], context: object) -> AsyncIterator[int]:
    async for _ in frames:
        yield 1


async def test_stopping_server_rejects_new_calls_with_a_retry_delay(tmp_path: Path) -> None:
    server, context = Server(tmp_path), Context()
    server.stopping = True
    rejecting = await server.handler(SCORE, grpc.unary_unary_rpc_method_handler(scored))
    with pytest.raises(Ended):
        await anext(rejecting.stream_stream(None, context))
    assert context.code is grpc.StatusCode.UNAVAILABLE
    info, retry = ErrorInfo(), RetryInfo()
    assert context.status.details[0].Unpack(info) and info.reason == "ENDING"
    assert context.status.details[1].Unpack(retry) and retry.retry_delay.seconds == 1


async def test_accepted_call_is_answered(tmp_path: Path) -> None:
    response, _ = await Server(tmp_path).score()
    assert response == "scored"


async def test_health_check_passes_a_stopping_server(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.stopping = True
    handler = await server.handler(HEALTH, grpc.unary_unary_rpc_method_handler(scored))
    assert await handler.unary_unary(None, Context()) == "scored"


async def test_call_without_a_request_is_invalid(tmp_path: Path) -> None:
    server, context = Server(tmp_path), Context()
    handler = await server.handler(SCORE, grpc.unary_unary_rpc_method_handler(scored))
    with pytest.raises(Ended):
        await handler.stream_unary(requests(), context)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_request_that_does_not_arrive_ends_its_call(tmp_path: Path) -> None:
    server = Server(tmp_path)
    calls: tuple[tuple[str, Any], ...] = (
        (SCORE, grpc.unary_unary_rpc_method_handler(scored)),
        (STREAM, grpc.stream_stream_rpc_method_handler(streamed)),
    )
    for method, made in calls:
        handler: Any = await server.handler(method, made)
        context = Context()
        with pytest.raises(Ended):
            if method == SCORE:
                await handler.stream_unary(silence(), context)
            else:
                await anext(handler.stream_stream(silence(), context))
        assert context.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_pause_between_frames_ends_no_stream(tmp_path: Path) -> None:
    server = Server(tmp_path)
    handler = await server.handler(STREAM, grpc.stream_stream_rpc_method_handler(streamed))
    frames = requests(ScoreStreamRequest(), ScoreStreamRequest(), pause_s=0.4)
    assert [each async for each in handler.stream_stream(frames, Context())] == [1, 1]


async def test_call_above_the_rate_is_refused_with_limit_and_delay(tmp_path: Path) -> None:
    server = Server(tmp_path, CallerLimits(requests_per_second=2))
    ends = [await server.score() for _ in range(5)]
    assert [response for response, _ in ends] == ["scored", "scored", "scored", None, None]
    _, context = ends[-1]
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "press-7 has reached its limit requests_per_second = 2" in context.status.message
    info, retry = ErrorInfo(), RetryInfo()
    assert context.status.details[0].Unpack(info) and info.reason == "LIMIT_EXCEEDED"
    assert context.status.details[1].Unpack(retry)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 0.5
    assert server.counted("blemish_limited_calls_total", "requests_per_second") == 2


async def test_stream_above_the_rate_is_slowed_down(tmp_path: Path) -> None:
    server = Server(tmp_path, CallerLimits(requests_per_second=20))
    handler = await server.handler(STREAM, grpc.stream_stream_rpc_method_handler(streamed))
    frames = requests(*[ScoreStreamRequest() for _ in range(29)])
    start_s = time.perf_counter()
    assert len([each async for each in handler.stream_stream(frames, Context())]) == 29
    assert time.perf_counter() - start_s > 0.45
    assert server.counted("blemish_throttled_messages_total", "requests_per_second") > 5


async def test_calls_at_once_are_limited_and_counted_down(tmp_path: Path) -> None:
    server = Server(tmp_path, CallerLimits(streams=1))
    handler = await server.handler(STREAM, grpc.stream_stream_rpc_method_handler(streamed))
    stream = handler.stream_stream(requests(ScoreStreamRequest(), pause_s=60), Context())
    await anext(stream)
    refused, context = await server.score()
    assert refused is None
    assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    await stream.aclose()
    response, _ = await server.score()
    assert response == "scored"


async def test_flood_of_refused_calls_is_delayed(tmp_path: Path) -> None:
    server = Server(tmp_path, CallerLimits(requests_per_second=0.001))
    await server.score()
    start_s = time.perf_counter()
    await asyncio.gather(*(server.score() for _ in range(20)))
    prompt_s = time.perf_counter() - start_s
    await asyncio.gather(*(server.score() for _ in range(50)))
    assert prompt_s < 0.9 < time.perf_counter() - start_s


async def counted(received: AsyncIterator[Any], context: object) -> int:
    return len([each async for each in received])


async def repeated(request: Any, context: object) -> AsyncIterator[Any]:
    yield request


KINDS: dict[str, Any] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler(scored, ScoreRequest.FromString),
    "unary_stream": grpc.unary_stream_rpc_method_handler(repeated, ScoreRequest.FromString),
    "stream_unary": grpc.stream_unary_rpc_method_handler(counted, ScoreRequest.FromString),
    "stream_stream": grpc.stream_stream_rpc_method_handler(streamed, ScoreRequest.FromString),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_that_are_not_the_message_are_rejected(tmp_path: Path, kind: str) -> None:
    handler = await Server(tmp_path).handler(SCORE, KINDS[kind])
    context, received = Context(), requests(handler.request_deserializer(b"\xff\xff\xff"))
    with pytest.raises(Ended):
        if kind.endswith("stream"):
            await anext(handler.stream_stream(received, context))
        else:
            await handler.stream_unary(received, context)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "blemish.v1.ScoreRequest" in context.status.message
