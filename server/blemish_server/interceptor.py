# SPDX-License-Identifier: Apache-2.0
"""Around every call: a request id in each log line, core errors as statuses, one line when it ends."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import structlog

from blemish_core.errors import BlemishError
from blemish_server.status import STATUS_OF_ERROR, abort

_OURS = "/blemish."
_REQUEST_ID = "x-request-id"

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of the blemish services; health and reflection pass by."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any]"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_OURS):
            return handler
        serializers = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            stream = handler.stream_stream if handler.request_streaming else handler.unary_stream

            async def send_all(request: Any, context: Context) -> AsyncIterator[Any]:
                async with _call(method, context):
                    async for message in stream(request, context):
                        yield message

            wrap = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return wrap(send_all, **serializers)
        unary = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def send_one(request: Any, context: Context) -> Any:
            async with _call(method, context):
                return await unary(request, context)

        wrap_one = (
            grpc.stream_unary_rpc_method_handler
            if handler.request_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return wrap_one(send_one, **serializers)


@asynccontextmanager
async def _call(method: str, context: Context) -> AsyncIterator[None]:
    """One call from its first line to its status."""
    given = dict(context.invocation_metadata() or ()).get(_REQUEST_ID)
    request_id = str(given)[:64] if given else uuid4().hex[:12]
    began = time.perf_counter()
    with structlog.contextvars.bound_contextvars(request=request_id, method=method.split("/")[-1]):
        status = "OK"
        try:
            yield
        except BlemishError as error:
            status = STATUS_OF_ERROR[type(error)].name
            log.info("refused", reason=error.reason, detail=str(error))
            await abort(context, error)
        except grpc.aio.AbortError:
            status = "ABORTED"
            raise
        except (GeneratorExit, BaseException) as error:
            if not isinstance(error, Exception):
                status = "CANCELLED"  # the caller left or its deadline passed
                raise
            status = "INTERNAL"
            log.exception("a call failed; this is a bug")
            await context.abort(
                grpc.StatusCode.INTERNAL,
                f"internal error; the server's log tells more under request id {request_id}",
            )
        finally:
            log.debug("call ended", status=status, ms=round(1000 * (time.perf_counter() - began), 1))
