# SPDX-License-Identifier: Apache-2.0
"""Audit entries of calls: one before a change, one after it, and one for a denied call."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio

from blemish_core.platform.errors import BlemishError, PermissionDenied, Unauthenticated
from blemish_server.audit.changes import CHANGES, Facts, action_of
from blemish_server.audit.entry import AuditEntry, Stage, host_of
from blemish_server.audit.recorder import AuditRecorder
from blemish_server.auth.access import ANONYMOUS, Caller
from blemish_server.transport.request_context import current_request_id
from blemish_server.transport.status import STATUS_OF_ERROR

_SERVER = f"{socket.gethostname()}:{os.getpid()}"
_MAX_MESSAGE = 500

Context = grpc.aio.ServicerContext[Any, Any]
Single = Callable[..., Awaitable[Any]]
Streaming = Callable[..., AsyncGenerator[Any]]


class CallAuditor:
    """Records the calls that change something, and those that are denied."""

    def __init__(self, recorder: AuditRecorder) -> None:
        self._recorder = recorder

    def audits(self, method: str) -> bool:
        """Return whether calls of a method change something."""
        return method in CHANGES

    def record_denial(self, method: str, caller: Caller, context: Context, error: BlemishError) -> None:
        """Record a call without a change, if it was denied."""
        if isinstance(error, PermissionDenied | Unauthenticated):
            entry = _entry(method, caller, context)
            self._recorder.write_denial(_ended(entry, Facts(), error))

    def unary(self, method: str, caller: Caller, behaviour: Single) -> Single:
        """Return a behaviour that records the changes of one with a single request and response."""
        describe, describe_response = CHANGES[method]

        async def respond(request: Any, context: Context) -> Any:
            facts = Facts()
            describe(request, facts)
            async with self._recorded(method, caller, context, facts) as begin:
                await begin()
                response = await behaviour(request, context)
                describe_response(response, facts)
                return response

        return respond

    def request_stream(self, method: str, caller: Caller, behaviour: Single) -> Single:
        """Return a behaviour that records the changes of one with a stream of requests.

        The call begins with its first request.
        """
        describe, describe_response = CHANGES[method]

        async def respond(requests: AsyncIterator[Any], context: Context) -> Any:
            facts = Facts()
            async with self._recorded(method, caller, context, facts) as begin:

                async def described() -> AsyncIterator[Any]:
                    has_begun = False
                    async for request in requests:
                        describe(request, facts)
                        if not has_begun:
                            await begin()
                            has_begun = True
                        yield request

                response = await behaviour(described(), context)
                describe_response(response, facts)
                return response

        return respond

    def response_stream(self, method: str, caller: Caller, behaviour: Streaming) -> Streaming:
        """Return a behaviour that records the changes of one with a stream of responses."""
        describe, _ = CHANGES[method]

        async def respond(request: Any, context: Context) -> AsyncGenerator[Any]:
            facts = Facts()
            describe(request, facts)
            async with self._recorded(method, caller, context, facts) as begin:
                await begin()
                async with aclosing(behaviour(request, context)) as messages:
                    async for message in messages:
                        yield message

        return respond

    @asynccontextmanager
    async def _recorded(
        self, method: str, caller: Caller, context: Context, facts: Facts
    ) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """Yield the function that records the begin of a call, and record its end.

        The call fails if its begin cannot be recorded. An end that cannot be recorded goes to the server's
        log, because the change has been made already.
        """
        entry = _entry(method, caller, context)
        has_begun = False

        async def begin() -> None:
            nonlocal has_begun
            has_begun = True  # also if this is cancelled, because the entry may be written nevertheless
            try:
                await self._recorder.write(_with_facts(entry, facts))
            except BlemishError:
                has_begun = False
                raise

        failure: BaseException | None = None
        try:
            yield begin
        except BaseException as error:
            failure = error
            raise
        finally:
            if has_begun:
                await self._recorder.write_or_report(_ended(entry, facts, failure))


def _entry(method: str, caller: Caller, context: Context) -> AuditEntry:
    peer = context.peer()
    return AuditEntry(
        id=uuid4().hex,
        stage=Stage.BEGUN,
        time=datetime.now(UTC),
        caller=caller.name or host_of(peer),
        role=caller.role.word if caller is not ANONYMOUS else "",
        peer=peer,
        request_id=current_request_id.get(),
        server=_SERVER,
        action=action_of(method),
    )


def _with_facts(entry: AuditEntry, facts: Facts) -> AuditEntry:
    return entry.model_copy(update={"resources": facts.resources, "details": facts.details})


def _ended(entry: AuditEntry, facts: Facts, failure: BaseException | None) -> AuditEntry:
    status, message = _status(failure)
    code: int
    code, _ = status.value
    ended = {"stage": Stage.ENDED, "end_time": datetime.now(UTC), "code": code, "message": message}
    return _with_facts(entry, facts).model_copy(update=ended)


def _status(failure: BaseException | None) -> tuple[grpc.StatusCode, str]:
    match failure:
        case None:
            return grpc.StatusCode.OK, ""
        case BlemishError():
            return STATUS_OF_ERROR[type(failure)], str(failure)[:_MAX_MESSAGE]
        case asyncio.CancelledError() | GeneratorExit():
            return grpc.StatusCode.CANCELLED, "the call was cancelled; the change may have been made"
        case NotImplementedError():
            return grpc.StatusCode.UNIMPLEMENTED, ""
        case _:
            return grpc.StatusCode.INTERNAL, "internal error; see the server's log"
