# SPDX-License-Identifier: Apache-2.0
"""Watching inspections without end, across lost connections and server restarts."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import grpc
import grpc.aio

from blemish.v1.inspection_pb2 import WatchInspectionsRequest, WatchInspectionsResponse
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish_client.errors import BlemishError, ResourceExhausted, Unavailable, translate_error
from blemish_client.transport.connection import AsyncConnection, Connection
from blemish_client.transport.retry import RetryPolicy

# Some proxies answer pings for a server that is gone. The server sends states more often than this.
_SILENT_AFTER_S = 30.0
_INTERVALS = 3
_CHECK_EVERY_S = 1.0

OnUnreachable = Callable[[Unavailable], None]


def watch(
    connection: Connection, request: WatchInspectionsRequest, on_unreachable: OnUnreachable | None = None
) -> Generator[WatchInspectionsResponse]:
    """Yield events and states until the generator is closed. After a lost connection the watch resumes.

    Raises:
        Unavailable: if the server stays unreachable for longer than the retry policy allows.
        BlemishError: if the server rejects the watch.
    """
    reconnection = _Reconnection(connection.retry_policy, on_unreachable)
    while True:
        try:
            for response in _one_call(connection, request):
                reconnection.succeeded()
                if not response.HasField("ending"):
                    yield response
            pause_s = reconnection.pause_s()
        except BlemishError as error:
            pause_s = reconnection.pause_after(error)
        time.sleep(pause_s)


async def watch_async(
    connection: AsyncConnection,
    request: WatchInspectionsRequest,
    on_unreachable: OnUnreachable | None = None,
) -> AsyncGenerator[WatchInspectionsResponse]:
    """Yield events and states as ``watch`` does."""
    reconnection = _Reconnection(connection.retry_policy, on_unreachable)
    while True:
        try:
            call = _one_async_call(connection, request)
            try:
                async for response in call:
                    reconnection.succeeded()
                    if not response.HasField("ending"):
                        yield response
            finally:
                await call.aclose()
            pause_s = reconnection.pause_s()
        except BlemishError as error:
            pause_s = reconnection.pause_after(error)
        await asyncio.sleep(pause_s)


class _Reconnection:
    """The pauses between the calls of a watch, and the time after which it gives up."""

    def __init__(self, policy: RetryPolicy, on_unreachable: OnUnreachable | None) -> None:
        self._policy = policy
        self._on_unreachable = on_unreachable
        self._pauses_s = policy.pauses_s()
        self._has_connected = False
        self._end_s: float | None = None

    def succeeded(self) -> None:
        """Note a response."""
        if self._end_s is not None or not self._has_connected:
            self._pauses_s = self._policy.pauses_s()
            self._end_s, self._has_connected = None, True

    def pause_s(self) -> float:
        """Return the pause after a call that the server ended."""
        return next(self._pauses_s)

    def pause_after(self, error: BlemishError) -> float:
        """Return the pause after a failed call.

        Raises:
            BlemishError: the error, if another call would not help or the time is up.
        """
        # After a restart, the places of lost watchers may be taken for a moment.
        is_full = isinstance(error, ResourceExhausted) and self._has_connected
        if not isinstance(error, Unavailable) and not is_full:
            raise error
        now_s = time.monotonic()
        if self._end_s is None:
            # Count from the first failure. The watch may have lasted for weeks before it.
            self._end_s = now_s + (self._policy.watch_s if self._has_connected else self._policy.call_s)
        pause_s = max(self.pause_s(), error.retry_after_s or 0.0)
        if now_s + pause_s > self._end_s:
            raise error
        if self._on_unreachable is not None and isinstance(error, Unavailable):
            self._on_unreachable(error)
        return pause_s


def _one_call(
    connection: Connection, request: WatchInspectionsRequest
) -> Iterator[WatchInspectionsResponse]:
    stub = InspectionServiceStub(connection.channel)
    limit_s = _silence_limit_s(request)
    with connection.guard.call():
        responses = stub.WatchInspections(request, metadata=connection.metadata)
        try:
            with _cancelled_when_silent(responses.cancel, limit_s) as watchdog:
                while True:
                    watchdog.begin()
                    try:
                        response = next(responses)
                    except StopIteration:
                        return
                    finally:
                        watchdog.end()
                    yield response
                    connection.guard.check()
        except grpc.RpcError as error:
            if watchdog.has_cancelled:
                raise _silent(limit_s) from error
            raise translate_error(error, connection.target) from error
        finally:
            if connection.guard.is_own_process:
                responses.cancel()


async def _one_async_call(
    connection: AsyncConnection, request: WatchInspectionsRequest
) -> AsyncGenerator[WatchInspectionsResponse]:
    connection.guard.check()
    stub: Any = InspectionServiceStub(connection.channel)
    call = stub.WatchInspections(request, metadata=connection.metadata)
    limit_s = _silence_limit_s(request)
    try:
        while True:
            async with asyncio.timeout(limit_s):
                response = await call.read()
            if response is grpc.aio.EOF:
                return
            yield response
            connection.guard.check()
    except TimeoutError as error:
        raise _silent(limit_s) from error
    except grpc.RpcError as error:
        raise translate_error(error, connection.target) from error
    finally:
        if connection.guard.is_own_process:
            call.cancel()


class _Watchdog:
    """The begin of the wait for the next response, as another thread sees it."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._began_s: float | None = None
        self.has_cancelled = False

    def begin(self) -> None:
        """Note that a response is awaited."""
        self._began_s = time.monotonic()

    def end(self) -> None:
        """Note that it has arrived."""
        self._began_s = None

    def cancel_when_silent(self, cancel: Callable[[], object], ended: Event) -> None:
        """Cancel the call once a response takes too long."""
        while not ended.wait(min(_CHECK_EVERY_S, self._limit_s / 2)):
            began_s = self._began_s
            if began_s is not None and time.monotonic() - began_s > self._limit_s:
                self.has_cancelled = True
                cancel()
                return


@contextmanager
def _cancelled_when_silent(cancel: Callable[[], object], limit_s: float) -> Iterator[_Watchdog]:
    watchdog, ended = _Watchdog(limit_s), Event()
    thread = Thread(
        target=watchdog.cancel_when_silent, args=(cancel, ended), name="inspection watch", daemon=True
    )
    thread.start()
    try:
        yield watchdog
    finally:
        ended.set()


def _silence_limit_s(request: WatchInspectionsRequest) -> float:
    return max(_SILENT_AFTER_S, _INTERVALS * request.state_interval.seconds)


def _silent(limit_s: float) -> Unavailable:
    return Unavailable(
        f"the server sent nothing for {limit_s:g} s; check the network", code=grpc.StatusCode.UNAVAILABLE
    )
