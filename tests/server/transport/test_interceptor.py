# SPDX-License-Identifier: Apache-2.0
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from blemish.v1.inspection_pb2 import ScoreRequest
from blemish_server.audit.log import AuditLog
from blemish_server.audit.recorder import AuditRecorder
from blemish_server.auth.authenticator import Authenticator
from blemish_server.metrics.server_metrics import ServerMetrics
from blemish_server.transport.auditing import CallAuditor
from blemish_server.transport.interceptor import CallInterceptor

SCORE, HEALTH = "/blemish.v1.InspectionService/Score", "/grpc.health.v1.Health/Check"


class CallDetails(grpc.HandlerCallDetails):
    """The method of a call without metadata."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


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


async def score(request: object, context: object) -> str:
    return "scored"


def make_interceptor(*, stopping: bool) -> CallInterceptor:
    auditor = CallAuditor(AuditRecorder(AuditLog(Path("unused"))))
    return CallInterceptor(Authenticator(None), auditor, ServerMetrics(), lambda: stopping)


async def behaviour(method: str, *, stopping: bool) -> Any:
    """Return the handler of a call of ``method``."""
    interceptor = make_interceptor(stopping=stopping)

    async def handler(details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(score)

    return await interceptor.intercept_service(handler, CallDetails(method))


async def test_stopping_server_rejects_new_calls_with_a_retry_delay() -> None:
    context = Context()
    rejecting = await behaviour(SCORE, stopping=True)
    with pytest.raises(Ended):
        await anext(rejecting.stream_stream(None, context))
    assert context.code is grpc.StatusCode.UNAVAILABLE
    info, retry = ErrorInfo(), RetryInfo()
    assert context.status.details[0].Unpack(info) and info.reason == "ENDING"
    assert context.status.details[1].Unpack(retry) and retry.retry_delay.seconds == 1


@pytest.mark.parametrize(("method", "stopping"), [(SCORE, False), (HEALTH, True)])
async def test_other_calls_pass(method: str, stopping: bool) -> None:
    handler = await behaviour(method, stopping=stopping)
    assert await handler.unary_unary(None, Context()) == "scored"


async def echo(requests: AsyncIterator[Any], context: object) -> AsyncIterator[Any]:
    async for request in requests:
        yield request


async def count(requests: AsyncIterator[Any], context: object) -> int:
    return len([request async for request in requests])


async def repeat(request: Any, context: object) -> AsyncIterator[Any]:
    yield request


KINDS: dict[str, Any] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler(score, ScoreRequest.FromString),
    "unary_stream": grpc.unary_stream_rpc_method_handler(repeat, ScoreRequest.FromString),
    "stream_unary": grpc.stream_unary_rpc_method_handler(count, ScoreRequest.FromString),
    "stream_stream": grpc.stream_stream_rpc_method_handler(echo, ScoreRequest.FromString),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_bytes_that_are_not_the_message_are_rejected(kind: str) -> None:
    interceptor = make_interceptor(stopping=False)

    async def inner(details: Any) -> Any:
        return KINDS[kind]

    handler = await interceptor.intercept_service(inner, CallDetails(SCORE))
    request = handler.request_deserializer(b"\xff\xff\xff")

    async def requests() -> AsyncIterator[Any]:
        yield request

    context, sent = Context(), requests() if kind.startswith("stream") else request
    answer = getattr(handler, kind)(sent, context)
    with pytest.raises(Ended):
        await (anext(answer) if kind.endswith("stream") else answer)
    assert context.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "blemish.v1.ScoreRequest" in context.status.message
