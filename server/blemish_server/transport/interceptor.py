# SPDX-License-Identifier: Apache-2.0
"""The interceptor of every call: authorization, request ids in logs, metrics, errors as statuses."""

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

_SERVICES = ("/blemish.", "/inference.")
_REQUEST_ID = "x-request-id"
# The caller's clock may end a call a little before the server's does.
_CLOCK_TOLERANCE_S = 0.05

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Mapping[str, str | bytes]
Streaming = Callable[..., AsyncGenerator[Any]]
Single = Callable[..., Awaitable[Any]]
Call = Callable[[Context], AbstractAsyncContextManager[None]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor of the blemish and inference services. Health and reflection pass through."""

    def __init__(
        self, authenticator: Authenticator, metrics: ServerMetrics, is_stopping: Callable[[], bool]
    ) -> None:
        """Create an interceptor.

        Args:
            authenticator: authorizes calls, and streams again at each message.
            metrics: counts calls.
            is_stopping: returns whether new calls are rejected because the server is stopping.
        """
        self._authenticator = authenticator
        self._metrics = metrics
        self._is_stopping = is_stopping

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_SERVICES):
            return handler
        metadata = dict(handler_call_details.invocation_metadata or ())
        ended = self._metrics.call_began(
            method, takes_stream=handler.request_streaming, sends_stream=handler.response_streaming
        )
        try:
            if self._is_stopping():
                raise ServerStopping
            caller = self._authenticator.authorize(method, metadata)
        except BlemishError as error:
            # A stream handler can reject a call of any kind without reading the request.
            return grpc.stream_stream_rpc_method_handler(_rejecting(method, metadata, ended, error))
        call = partial(_call, method, metadata, caller, ended)
        # A token may be revoked while a stream is open.
        reauthorize = partial(self._authenticator.authorize, method, metadata)
        if handler.response_streaming:
            behaviour = handler.stream_stream or handler.unary_stream
            return _rebuilt(handler, _response_stream(behaviour, call, reauthorize))
        if handler.request_streaming:
            return _rebuilt(handler, _request_stream(handler.stream_unary, call, reauthorize))
        return _rebuilt(handler, _unary(handler.unary_unary, call))


def _response_stream(behaviour: Streaming, call: Call, reauthorize: Callable[[], object]) -> Streaming:
    async def respond(request: Any, context: Context) -> AsyncGenerator[Any]:
        async with call(context), aclosing(behaviour(request, context)) as messages:
            async for message in messages:
                reauthorize()
                yield message

    return respond


def _request_stream(behaviour: Single, call: Call, reauthorize: Callable[[], object]) -> Single:
    async def respond(requests: AsyncIterator[Any], context: Context) -> Any:
        async def authorized() -> AsyncIterator[Any]:
            async for request in requests:
                reauthorize()
                yield request

        async with call(context):
            return await behaviour(authorized(), context)

    return respond


def _unary(behaviour: Single, call: Call) -> Single:
    async def respond(request: Any, context: Context) -> Any:
        async with call(context):
            return await behaviour(request, context)

    return respond


def _rejecting(method: str, metadata: Metadata, ended: Ended, error: BlemishError) -> Streaming:
    async def reject(requests: AsyncIterator[Any], context: Context) -> AsyncGenerator[Any]:
        async with _call(method, metadata, ANONYMOUS, ended, context):
            raise error
        yield

    return reject


def _rebuilt(handler: Any, behaviour: Callable[..., Any]) -> Any:
    """Return a handler with another behaviour of the same kind."""
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
    """Run a call: bind its log context, and end it with a status."""
    sent_id = metadata.get(_REQUEST_ID)
    request_id = str(sent_id)[:64] if sent_id else uuid4().hex[:12]
    start_s = time.perf_counter()
    current_caller.set(caller)
    named = {"caller": caller.name} if caller.name else {}
    with structlog.contextvars.bound_contextvars(request=request_id, method=method.split("/")[-1], **named):
        status = "OK"
        try:
            yield
        except BlemishError as error:
            status = STATUS_OF_ERROR[type(error)].name
            log.info("call rejected", reason=error.reason, detail=str(error), peer=context.peer())
            await abort(context, error)
        except (asyncio.CancelledError, GeneratorExit):
            left_s = context.time_remaining()
            status = "CANCELLED" if left_s is None or left_s > _CLOCK_TOLERANCE_S else "DEADLINE_EXCEEDED"
            raise
        except grpc.aio.AbortError:
            status = "ABORTED"
            raise
        except NotImplementedError:
            status = "UNIMPLEMENTED"
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "blemish does not implement this call")
        except Exception:
            status = "INTERNAL"
            log.exception("call failed; this is a bug")
            await context.abort(
                grpc.StatusCode.INTERNAL,
                f"internal error; see the server's log for request id {request_id}",
            )
        finally:
            took_s = time.perf_counter() - start_s
            ended(status, took_s)
            log.debug("call ended", status=status, ms=round(1000 * took_s, 1))
