# SPDX-License-Identifier: Apache-2.0
"""The interceptor of every call: authorization, limits, audit, request ids, metrics, errors as statuses."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from blemish_core.platform.errors import (
    BlemishError,
    DeadlineExceeded,
    InvalidRequest,
    LimitExceeded,
    PermissionDenied,
    ServerStopping,
    Unauthenticated,
)
from blemish_server.audit.entry import host_of
from blemish_server.auth.access import ANONYMOUS, Caller
from blemish_server.auth.authenticator import Authenticator, current_caller
from blemish_server.auth.limits import CallerLimiter, CallerUsage
from blemish_server.metrics.server_metrics import Ended, ServerMetrics
from blemish_server.transport.auditing import CallAuditor
from blemish_server.transport.refusal_pacer import RefusalPacer
from blemish_server.transport.request_context import current_request_id
from blemish_server.transport.status import STATUS_OF_ERROR, abort, message_of

_SERVICES = ("/blemish.", "/inference.")
_REQUEST_ID = "x-request-id"
# The caller's clock may end a call a little before the server's does.
_CLOCK_TOLERANCE_S = 0.05
REQUEST_TIMEOUT_S = 120.0
"""Time in which the first request of a call must arrive, in seconds."""

log = structlog.get_logger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Mapping[str, str | bytes]
Streaming = Callable[..., AsyncGenerator[Any]]
Single = Callable[..., Awaitable[Any]]


class CallInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor of the blemish and inference services. Health and reflection pass through."""

    def __init__(
        self,
        authenticator: Authenticator,
        limiter: CallerLimiter,
        auditor: CallAuditor,
        metrics: ServerMetrics,
        is_stopping: Callable[[], bool],
        *,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        """Create an interceptor.

        Args:
            authenticator: authorizes calls, and streams again at each message.
            limiter: refuses calls above the limits of their callers.
            auditor: records changes and denied calls.
            metrics: counts calls.
            is_stopping: returns whether new calls are rejected because the server is stopping.
            request_timeout_s: time in which the first request of a call must arrive, in seconds.
        """
        self._authenticator = authenticator
        self._limiter = limiter
        self._auditor = auditor
        self._metrics = metrics
        self._is_stopping = is_stopping
        self._request_timeout_s = request_timeout_s
        self._pacer = RefusalPacer()

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
            if over := self._limiter.refusal(caller.name, caller.limits):
                raise over
        except BlemishError as error:
            denied = partial(self._auditor.record_denial, method, caller)
            call = _Call(method, metadata, caller, ended, denied, None, self._pacer)
            # A stream handler can reject a call of any kind without reading the request.
            return grpc.stream_stream_rpc_method_handler(_rejecting(call, error))
        return self._accepted(handler, method, metadata, caller, ended)

    def _accepted(self, handler: Any, method: str, metadata: Metadata, caller: Caller, ended: Ended) -> Any:
        """Return the handler of a call that is authorized.

        It takes a stream of requests also for a single one. It can then refuse a call without reading its
        request, and limit the time in which the request arrives.
        """
        changes = self._auditor.audits(method)
        # The entry of a change has its status.
        denied = _ignore_denial if changes else partial(self._auditor.record_denial, method, caller)
        call = _Call(method, metadata, caller, ended, denied, self._limiter, self._pacer)
        # A token may be revoked while a stream is open.
        reauthorize = partial(self._authenticator.authorize, method, metadata)
        reader = _RequestReader(reauthorize, self._request_timeout_s)
        behaviour: Any = (
            handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        )
        if changes:
            behaviour = self._audited(handler, method, caller, behaviour)
        respond: Any
        if handler.response_streaming:
            respond = _streaming(behaviour, call, reader, takes_stream=handler.request_streaming)
            kind: Any = grpc.stream_stream_rpc_method_handler
        else:
            respond = _single(behaviour, call, reader, takes_stream=handler.request_streaming)
            kind = grpc.stream_unary_rpc_method_handler
        return kind(
            respond,
            request_deserializer=handler.request_deserializer and _parser(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _audited(self, handler: Any, method: str, caller: Caller, behaviour: Any) -> Any:
        if handler.response_streaming:
            return self._auditor.response_stream(method, caller, behaviour)
        if handler.request_streaming:
            return self._auditor.request_stream(method, caller, behaviour)
        return self._auditor.unary(method, caller, behaviour)


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


@dataclass(frozen=True)
class _RequestReader:
    """Reads the requests of a call."""

    reauthorize: Callable[[], object]
    timeout_s: float

    async def only(self, requests: AsyncIterable[Any], usage: CallerUsage | None) -> Any:
        """Return the request of a call that has one.

        Raises:
            DeadlineExceeded: if it does not arrive in time.
            InvalidRequest: if the caller sends none, or bytes that are not a message.
        """
        request = await self._first(aiter(requests))
        if request is None:
            raise InvalidRequest("the call has no request; send one message")
        _checked(request)
        if usage is not None:
            usage.charge(request)
        return request

    async def stream(self, requests: AsyncIterable[Any], usage: CallerUsage | None) -> AsyncIterator[Any]:
        """Yield the requests of a stream, as fast as the limits of the caller allow.

        Raises:
            DeadlineExceeded: if the first one does not arrive in time.
            InvalidRequest: if bytes are not a message.
            BlemishError: if the caller is no longer authorized.
        """
        iterator = aiter(requests)
        request = await self._first(iterator)
        while request is not None:
            self.reauthorize()
            _checked(request)
            if usage is not None:
                await usage.charge_in_stream(request)
            yield request
            request = None  # free the message while the next one is awaited
            request = await anext(iterator, None)

    async def _first(self, iterator: AsyncIterator[Any]) -> Any:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await anext(iterator, None)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the request did not arrive within {self.timeout_s:g} s; check the network, or send a "
                "smaller request"
            ) from None


def _streaming(
    behaviour: Streaming, call: "_Call", reader: _RequestReader, *, takes_stream: bool
) -> Streaming:
    async def respond(requests: AsyncIterable[Any], context: Context) -> AsyncGenerator[Any]:
        async with call.run(context) as usage:
            request = reader.stream(requests, usage) if takes_stream else await reader.only(requests, usage)
            async with aclosing(behaviour(request, context)) as messages:
                async for message in messages:
                    reader.reauthorize()
                    yield message

    return respond


def _single(behaviour: Single, call: "_Call", reader: _RequestReader, *, takes_stream: bool) -> Single:
    async def respond(requests: AsyncIterable[Any], context: Context) -> Any:
        async with call.run(context) as usage:
            request = reader.stream(requests, usage) if takes_stream else await reader.only(requests, usage)
            return await behaviour(request, context)

    return respond


def _rejecting(call: "_Call", error: BlemishError) -> Streaming:
    async def reject(requests: AsyncIterable[Any], context: Context) -> AsyncGenerator[Any]:
        if call.is_flood(error, context):
            await call.refuse_slowly(error, context)
        async with call.run(context):
            raise error
        yield

    return reject


def _ignore_denial(context: Context, error: BlemishError) -> None:
    """Record nothing."""


@dataclass(frozen=True)
class _Call:
    """A call: its log context, its usage of limits, and its end with a status."""

    method: str
    metadata: Metadata
    caller: Caller
    ended: Ended
    denied: Callable[[Context, BlemishError], None]
    """Records a call that ended with an error, if it was denied."""
    limiter: CallerLimiter | None
    """None for a call that is rejected in any case."""
    pacer: RefusalPacer

    @asynccontextmanager
    async def run(self, context: Context) -> AsyncIterator[CallerUsage | None]:
        """Run a call, and yield its usage, which is None for a caller without limits."""
        sent_id = self.metadata.get(_REQUEST_ID)
        request_id = str(sent_id)[:64] if sent_id else uuid4().hex[:12]
        start_s = time.perf_counter()
        caller = self.caller
        current_caller.set(caller)
        current_request_id.set(request_id)
        named = {"caller": caller.name} if caller.name else {}
        usage = self.limiter.call(caller.name, caller.limits) if self.limiter else nullcontext()
        with structlog.contextvars.bound_contextvars(
            request=request_id, method=self.method.split("/")[-1], **named
        ):
            status = "OK"
            try:
                with usage as counted:
                    yield counted
            except BlemishError as error:
                status = STATUS_OF_ERROR[type(error)].name
                # The rejecting handler has counted a call without a limiter.
                is_flood = self.limiter is not None and self.is_flood(error, context)
                if not is_flood:
                    detail = message_of(error)
                    log.info("call rejected", reason=error.reason, detail=detail, peer=context.peer())
                self.denied(context, error)
                if is_flood:
                    await self.pacer.wait()
                await abort(context, error)
            except (asyncio.CancelledError, GeneratorExit):
                left_s = context.time_remaining()
                is_late = left_s is not None and left_s <= _CLOCK_TOLERANCE_S
                status = "DEADLINE_EXCEEDED" if is_late else "CANCELLED"
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
                self.ended(status, took_s)
                log.debug("call ended", status=status, ms=round(1000 * took_s, 1))

    async def refuse_slowly(self, error: BlemishError, context: Context) -> None:
        """Abort a call that is part of a flood. It costs half of what ``run`` does."""
        start_s = time.perf_counter()
        status = "CANCELLED"
        try:
            self.denied(context, error)
            await self.pacer.wait()
            status = STATUS_OF_ERROR[type(error)].name
            await abort(context, error)
        finally:
            self.ended(status, time.perf_counter() - start_s)

    def is_flood(self, error: BlemishError, context: Context) -> bool:
        """Return whether the caller is refused so often that answers wait and are not logged."""
        if not isinstance(error, LimitExceeded | PermissionDenied | Unauthenticated):
            return False
        return self.pacer.counts_as_flood(self.caller.name or host_of(context.peer()))
