# SPDX-License-Identifier: Apache-2.0
"""How a method of a service answers: its result with the time it took, or one status."""

import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import grpc
import structlog

from blemish_local.qdrant.errors import AlreadyExists, BadRequest, Missing, Refusal, Unsupported

STATUS: dict[type[Refusal], grpc.StatusCode] = {
    BadRequest: grpc.StatusCode.INVALID_ARGUMENT,
    Missing: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    Unsupported: grpc.StatusCode.UNIMPLEMENTED,
}

log = structlog.get_logger(__name__)


class Timed(Protocol):
    time: float
    """Seconds."""


Service = TypeVar("Service")
Request = TypeVar("Request")
Answer = TypeVar("Answer", bound=Timed)
Context = grpc.aio.ServicerContext[Any, Any]


def answered(
    method: Callable[[Service, Request], Answer],
) -> Callable[[Service, Request, Context], Awaitable[Answer]]:
    """Make an RPC of a method that takes the request, and returns the answer or raises Refusal.

    It runs on the event loop itself: the engine lets no other thread of Python run meanwhile.
    """

    @functools.wraps(method)
    async def answer(self: Service, request: Request, context: Context) -> Answer:
        left_s = context.time_remaining()
        if left_s is not None and left_s <= 0:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the caller has left")
        begin = time.perf_counter()
        try:
            refuse_sharding(request)
            result = method(self, request)
        except Refusal as refusal:
            await context.abort(STATUS[type(refusal)], str(refusal))
        except Exception:
            log.exception("a request failed", rpc=method.__qualname__)
            await context.abort(
                grpc.StatusCode.INTERNAL, "internal error; the embedded Qdrant's log has the reason"
            )
        result.time = time.perf_counter() - begin
        return result

    return answer


def refuse_sharding(request: Any) -> None:
    """Raise Unsupported where a request is meant for some shards only."""
    field = "shard_key_selector"
    if field in request.DESCRIPTOR.fields_by_name and request.HasField(field):
        raise Unsupported("sharding")
