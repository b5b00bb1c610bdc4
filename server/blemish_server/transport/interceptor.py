# SPDX-License-Identifier: Apache-2.0
"""Around every call: who calls and may he, a request id in each log line, core errors as statuses."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import structlog

from blemish_core.platform.errors import BlemishError, ServerStopping
from blemish_server.auth.access import ANONYMOUS, Caller
from blemish_server.auth.authenticator import Authenticator, current_caller
from blemish_server.metrics.server_metrics import Ended, ServerMetrics
from blemish_server.transport.status import STATUS_OF_ERROR, abort

_OURS = ("/blemish.", "/inference.")
_REQUEST_ID = "x-request-id"
# The caller's clock ends a call as well as ours, a little sooner or later.
_ABOUT_S = 0.05

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Mapping[str, str | bytes]
Streaming = Callable[..., AsyncGenerator[Any]]
Single = Callable[..., Awaitable[Any]]
Call = Callable[[Context], AbstractAsyncContextManager[None]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of the blemish services; health and reflection pass by."""

    def __init__(
        self, authenticator: Authenticator, monitor: ServerMetrics, is_ending: Callable[[], bool]
    ) -> None:
        """Refuse new calls once ``is_ending``."""
        self._authenticator = authenticator
        self._monitor = monitor
        self._is_ending = is_ending

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_OURS):
            return handler
        metadata = dict(handler_call_details.invocation_metadata or ())
        ended = self._monitor.call_began(
            method, takes_stream=handler.request_streaming, sends_stream=handler.response_streaming
        )
        try:
            if self._is_ending():
                raise ServerStopping
            caller = self._authenticator.authorize(method, metadata)
        except BlemishError as error:
            # Whatever kind of call it is: of a stream not a byte has to be read before it can be refused.
            return grpc.stream_stream_rpc_method_handler(_refusing(method, metadata, ended, error))
        call = partial(_call, method, metadata, caller, ended)
        # Streams are long, and tokens are revoked meanwhile.
        still = partial(self._authenticator.authorize, method, metadata)
        if handler.response_streaming:
            return _rebuilt(handler, _streaming(handler.stream_stream or handler.unary_stream, call, still))
        if handler.request_streaming:
            return _rebuilt(handler, _gathering(handler.stream_unary, call, still))
        return _rebuilt(handler, _single(handler.unary_unary, call))


def _streaming(behaviour: Streaming, call: Call, still: Callable[[], object]) -> Streaming:
    async def send_all(request: Any, context: Context) -> AsyncGenerator[Any]:
        async with call(context), aclosing(behaviour(request, context)) as messages:
            async for message in messages:
                still()
                yield message

    return send_all


def _gathering(behaviour: Single, call: Call, still: Callable[[], object]) -> Single:
    async def take_all(requests: AsyncIterator[Any], context: Context) -> Any:
        async def admitted() -> AsyncIterator[Any]:
            async for request in requests:
                still()
                yield request

        async with call(context):
            return await behaviour(admitted(), context)

    return take_all


def _single(behaviour: Single, call: Call) -> Single:
    async def send_one(request: Any, context: Context) -> Any:
        async with call(context):
            return await behaviour(request, context)

    return send_one


def _refusing(method: str, metadata: Metadata, ended: Ended, error: BlemishError) -> Streaming:
    async def refuse(requests: AsyncIterator[Any], context: Context) -> AsyncGenerator[Any]:
        async with _call(method, metadata, ANONYMOUS, ended, context):
            raise error
        yield

    return refuse


def _rebuilt(handler: Any, behaviour: Callable[..., Any]) -> Any:
    """``handler`` with another behaviour of the same kind."""
    kinds = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    kind: Any = kinds[handler.request_streaming, handler.response_streaming]
    return kind(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


@asynccontextmanager
async def _call(
    method: str, metadata: Metadata, caller: Caller, ended: Ended, context: Context
) -> AsyncIterator[None]:
    """One call from its first line to its status."""
    given = metadata.get(_REQUEST_ID)
    request_id = str(given)[:64] if given else uuid4().hex[:12]
    began = time.perf_counter()
    current_caller.set(caller)
    named = {"caller": caller.name} if caller.name else {}
    with structlog.contextvars.bound_contextvars(request=request_id, method=method.split("/")[-1], **named):
        status = "OK"
        try:
            yield
        except BlemishError as error:
            status = STATUS_OF_ERROR[type(error)].name
            log.info("refused", reason=error.reason, detail=str(error), peer=context.peer())
            await abort(context, error)
        except (asyncio.CancelledError, GeneratorExit):
            left_s = context.time_remaining()
            status = "CANCELLED" if left_s is None or left_s > _ABOUT_S else "DEADLINE_EXCEEDED"
            raise
        except grpc.aio.AbortError:
            status = "ABORTED"
            raise
        except NotImplementedError:
            status = "UNIMPLEMENTED"
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "blemish does not offer this call")
        except Exception:
            status = "INTERNAL"
            log.exception("a call failed; this is a bug")
            await context.abort(
                grpc.StatusCode.INTERNAL,
                f"internal error; the server's log tells more under request id {request_id}",
            )
        finally:
            took_s = time.perf_counter() - began
            ended(status, took_s)
            log.debug("call ended", status=status, ms=round(1000 * took_s, 1))
