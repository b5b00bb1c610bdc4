# SPDX-License-Identifier: Apache-2.0
"""The way from a servicer's method to an RPC: checks, timing and the status of errors."""

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from blemish_core.platform.disk import is_for_lack_of_space
from blemish_local.qdrant.errors import (
    BadRequest,
    Missing,
    NameTaken,
    NoSpace,
    RequestRejected,
    Unsupported,
)
from blemish_local.qdrant.services.served_fields import check_fields

STATUS: dict[type[RequestRejected], grpc.StatusCode] = {
    BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Missing: grpc.StatusCode.NOT_FOUND,
    NameTaken: grpc.StatusCode.ALREADY_EXISTS,
    NoSpace: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
}

log = structlog.get_logger(__name__)


class TimedResponse(Protocol):
    """A response of Qdrant, all of which report how long they took."""

    time: float
    """Duration of the call, in seconds."""


Service = TypeVar("Service")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=TimedResponse)
Context = grpc.aio.ServicerContext[Any, Any]


def rpc(
    method: Callable[[Service, Request], Response],
) -> Callable[[Service, Request, Context], Awaitable[Response]]:
    """Turn a method that returns a response or raises ``RequestRejected`` into an RPC.

    The method runs on the event loop. Threads would gain nothing, because the engine holds the GIL.
    """

    @functools.wraps(method)
    async def call(self: Service, request: Request, context: Context) -> Response:
        left_s = context.time_remaining()
        if left_s is not None and left_s <= 0:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline has passed")
        begin = time.perf_counter()
        try:
            check_fields(request)
            response = method(self, request)
        except RequestRejected as rejection:
            await context.abort(STATUS[type(rejection)], str(rejection))
        except Exception as error:
            if is_for_lack_of_space(error):
                await context.abort(STATUS[NoSpace], str(NoSpace()))
            log.exception("request failed", rpc=method.__qualname__)
            await context.abort(
                grpc.StatusCode.INTERNAL, "internal error; the embedded Qdrant's log has the reason"
            )
        response.time = time.perf_counter() - begin
        return response

    return call


def with_unsupported_methods(service: type[Service]) -> type[Service]:
    """Answer the RPCs that a servicer does not override with UNIMPLEMENTED and a sentence."""
    for name in {name for base in service.__bases__ for name in vars(base)} - {*vars(service)}:
        if not name.startswith("_"):
            setattr(service, name, _unsupported(name))
    return service


def _unsupported(name: str) -> Callable[[Any, Any, Context], Awaitable[None]]:
    async def call(_self: Any, _request: Any, context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, str(Unsupported(f"the call {name}")))

    return call
