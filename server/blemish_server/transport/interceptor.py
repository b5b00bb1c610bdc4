# SPDX-License-Identifier: Apache-2.0
"""The interceptor of every call: authorization, audit, request ids in logs, metrics, errors as statuses."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from blemish_core.platform.errors import BlemishError, InvalidRequest, ServerStopping
from blemish_server.auth.access import ANONYMOUS, Caller
from blemish_server.auth.authenticator import Authenticator, current_caller
from blemish_server.metrics.server_metrics import Ended, ServerMetrics
from blemish_server.transport.auditing import CallAuditor
from blemish_server.transport.request_context import current_request_id
from blemish_server.transport.status import STATUS_OF_ERROR, abort, message_of

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
Denied = Callable[[Context, BlemishError], None]
"""Records a call that ended with an error, if it was denied."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor of the blemish and inference services. Health and reflection pass through."""

    def __init__(
        self,
        authenticator: Authenticator,
        auditor: CallAuditor,
        metrics: ServerMetrics,
        is_stopping: Callable[[], bool],
    ) -> None:
        """Create an interceptor.

        Args:
            authenticator: authorizes calls, and streams again at each message.
            auditor: records changes and denied calls.
            metrics: counts calls.
            is_stopping: returns whether new calls are rejected because the server is stopping.
        """
        self._authenticator = authenticator
        self._auditor = auditor
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
        caller = ANONYMOUS
        try:
            if self._is_stopping():
                raise ServerStopping
            caller = self._authenticator.authenticate(metadata)
            self._authenticator.check_role(caller, method)
        except BlemishError as error:
            # A stream handler can reject a call of any kind without reading the request.
            denied = partial(self._auditor.record_denial, method, caller)
            call = partial(_call, method, metadata, caller, ended, denied)
            return grpc.stream_stream_rpc_method_handler(_rejecting(call, error))
        return self._accepted(handler, method, metadata, caller, ended)

    def _accepted(self, handler: Any, method: str, metadata: Metadata, caller: Caller, ended: Ended) -> Any:
        """Return the handler of a call that is authorized."""
        changes = self._auditor.audits(method)
        # The entry of a change has its status.
        denied = _ignore_denial if changes else partial(self._auditor.record_denial, method, caller)
        call = partial(_call, method, metadata, caller, ended, denied)
        # A token may be revoked while a stream is open.
        reauthorize = partial(self._authenticator.authorize, method, metadata)
        if handler.response_streaming:
            stream = handler.stream_stream or handler.unary_stream
            if changes:
                stream = self._auditor.response_stream(method, caller, stream)
            respond = _response_stream(stream, call, reauthorize, reads=handler.request_streaming)
            return _rebuilt(handler, respond)
        if handler.request_streaming:
            single = handler.stream_unary
            if changes:
                single = self._auditor.request_stream(method, caller, single)
            return _rebuilt(handler, _request_stream(single, call, reauthorize))
        single = handler.unary_unary
        if changes:
            single = self._auditor.unary(method, caller, single)
        return _rebuilt(handler, _unary(single, call))


@dataclass(frozen=True)
class _Malformed:
    """Received bytes that are not a message. gRPC would end the call with UNKNOWN."""

    reason: str


def _parser(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a deserializer that returns ``_Malformed`` where ``parse`` fails."""

    def parsed(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            return _Malformed(str(error))

    return parsed


def _checked(request: Any) -> Any:
    """Return a request.

    Raises:
        InvalidRequest: if its bytes were not a message.
    """
    if isinstance(request, _Malformed):
        raise InvalidRequest(f"{request.reason}; encode it with the stubs of this contract")
    return request


def _response_stream(
    behaviour: Streaming, call: Call, reauthorize: Callable[[], object], *, reads: bool
) -> Streaming:
    async def checked(requests: AsyncIterator[Any]) -> AsyncGenerator[Any]:
        async for request in requests:
            yield _checked(request)

    async def respond(request: Any, context: Context) -> AsyncGenerator[Any]:
        async with call(context):
            received = checked(request) if reads else _checked(request)
            async with aclosing(behaviour(received, context)) as messages:
                async for message in messages:
                    reauthorize()
                    yield message

    return respond


def _request_stream(behaviour: Single, call: Call, reauthorize: Callable[[], object]) -> Single:
    async def respond(requests: AsyncIterator[Any], context: Context) -> Any:
        async def authorized() -> AsyncIterator[Any]:
            async for request in requests:
                reauthorize()
                yield _checked(request)

        async with call(context):
            return await behaviour(authorized(), context)

    return respond


def _unary(behaviour: Single, call: Call) -> Single:
    async def respond(request: Any, context: Context) -> Any:
        async with call(context):
            return await behaviour(_checked(request), context)

    return respond


def _rejecting(call: Call, error: BlemishError) -> Streaming:
    async def reject(requests: AsyncIterator[Any], context: Context) -> AsyncGenerator[Any]:
        async with call(context):
            raise error
        yield

    return reject


def _ignore_denial(context: Context, error: BlemishError) -> None:
    """Record nothing."""


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
        request_deserializer=handler.request_deserializer and _parser(handler.request_deserializer),
        response_serializer=handler.response_serializer,
    )


@asynccontextmanager
async def _call(
    method: str, metadata: Metadata, caller: Caller, ended: Ended, denied: Denied, context: Context
) -> AsyncIterator[None]:
    """Run a call: bind its log context, and end it with a status."""
    sent_id = metadata.get(_REQUEST_ID)
    request_id = str(sent_id)[:64] if sent_id else uuid4().hex[:12]
    start_s = time.perf_counter()
    current_caller.set(caller)
    current_request_id.set(request_id)
    named = {"caller": caller.name} if caller.name else {}
    with structlog.contextvars.bound_contextvars(request=request_id, method=method.split("/")[-1], **named):
        status = "OK"
        try:
            yield
        except BlemishError as error:
            status = STATUS_OF_ERROR[type(error)].name
            log.info("call rejected", reason=error.reason, detail=message_of(error), peer=context.peer())
            denied(context, error)
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
