# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from blemish_server.auth.authenticator import Authenticator
from blemish_server.metrics.server_metrics import ServerMetrics
from blemish_server.transport.interceptor import CallInterceptor

SCORE, HEALTH = "/blemish.v1.InspectionService/Score", "/grpc.health.v1.Health/Check"


class Ended(Exception):
    """The call's end."""


class Context:
    """Stands for a call's: keeps what it was ended with."""

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


async def behaviour(method: str, *, ending: bool) -> Any:
    """What a call of ``method`` is handled by."""
    interceptor = CallInterceptor(Authenticator(None), ServerMetrics(), lambda: ending)

    async def handler(details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(score)

    details: Any = SimpleNamespace(method=method, invocation_metadata=())
    return await interceptor.intercept_service(handler, details)


async def test_a_server_that_ends_refuses_new_calls_and_says_when_to_come_back() -> None:
    context = Context()
    refused = await behaviour(SCORE, ending=True)
    with pytest.raises(Ended):
        await anext(refused.stream_stream(None, context))
    assert context.code is grpc.StatusCode.UNAVAILABLE
    info, retry = ErrorInfo(), RetryInfo()
    assert context.status.details[0].Unpack(info) and info.reason == "ENDING"
    assert context.status.details[1].Unpack(retry) and retry.retry_delay.seconds == 1


@pytest.mark.parametrize(("method", "ending"), [(SCORE, False), (HEALTH, True)])
async def test_all_others_are_taken(method: str, ending: bool) -> None:
    taken = await behaviour(method, ending=ending)
    assert await taken.unary_unary(None, Context()) == "scored"
