# SPDX-License-Identifier: Apache-2.0
"""Around every call: who calls and may he, a request id in each log line, core errors as statuses."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import structlog

from blemish_core.errors import BlemishError
from blemish_server.doorkeeper import Doorkeeper
from blemish_server.status import STATUS_OF_ERROR, abort

_OURS = ("/blemish.", "/inference.")
_REQUEST_ID = "x-request-id"

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Mapping[str, str | bytes]
Streaming = Callable[..., AsyncGenerator[Any]]
Single = Callable[..., Awaitable[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of the blemish services; health and reflection pass by."""

    def __init__(self, doorkeeper: Doorkeeper) -> None:
        self._doorkeeper = doorkeeper

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_OURS):
            return handler
        try:
            self._doorkeeper.admit(method, dict(handler_call_details.invocation_metadata or ()))
        except BlemishError as error:
            # Whatever kind of call it is: of a stream not a byte has to be read before it can be refused.
            return grpc.stream_stream_rpc_method_handler(_refusing(method, error))
        if handler.response_streaming:
            return _rebuilt(handler, self._streaming(method, handler.stream_stream or handler.unary_stream))
        return _rebuilt(handler, self._single(method, handler.stream_unary or handler.unary_unary))

    def _streaming(self, method: str, behaviour: Streaming) -> Streaming:
        async def send_all(request: Any, context: Context) -> AsyncGenerator[Any]:
            metadata = _metadata(context)
            async with _call(method, metadata, context):
                self._admit(method, metadata)
                async with aclosing(behaviour(request, context)) as messages:
                    async for message in messages:
                        # Once more: streams are long, and tokens are revoked.
                        self._doorkeeper.admit(method, metadata)
                        yield message

        return send_all

    def _single(self, method: str, behaviour: Single) -> Single:
        async def send_one(request: Any, context: Context) -> Any:
            metadata = _metadata(context)
            async with _call(method, metadata, context):
                self._admit(method, metadata)
                return await behaviour(request, context)

        return send_one

    def _admit(self, method: str, metadata: Metadata) -> None:
        if name := self._doorkeeper.admit(method, metadata).name:
            structlog.contextvars.bind_contextvars(caller=name)


def _refusing(method: str, error: BlemishError) -> Streaming:
    async def refuse(request: Any, context: Context) -> AsyncGenerator[Any]:
        async with _call(method, _metadata(context), context):
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


def _metadata(context: Context) -> Metadata:
    return dict(context.invocation_metadata() or ())


@asynccontextmanager
async def _call(method: str, metadata: Metadata, context: Context) -> AsyncIterator[None]:
    """One call from its first line to its status."""
    given = metadata.get(_REQUEST_ID)
    request_id = str(given)[:64] if given else uuid4().hex[:12]
    began = time.perf_counter()
    with structlog.contextvars.bound_contextvars(request=request_id, method=method.split("/")[-1]):
        status = "OK"
        try:
            yield
        except BlemishError as error:
            status = STATUS_OF_ERROR[type(error)].name
            log.info("refused", reason=error.reason, detail=str(error), peer=context.peer())
            await abort(context, error)
        except (asyncio.CancelledError, GeneratorExit):
            status = "CANCELLED"  # the caller left, or its deadline passed
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
            log.debug("call ended", status=status, ms=round(1000 * (time.perf_counter() - began), 1))
