# SPDX-License-Identifier: Apache-2.0
"""Connections to a server: channel options, timeouts, retries and errors."""

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from functools import cached_property
from typing import TypeVar

import grpc
import grpc.aio
from grpc.experimental import ChannelOptions

from blemish_client.errors import Unavailable, translate_error
from blemish_client.transport.channel import Keepalive, channel_options
from blemish_client.transport.credentials import Credentials
from blemish_client.transport.process import ProcessGuard
from blemish_client.transport.retry import RetryPolicy

TIMEOUT_S = 30.0
"""Default timeout of a call, in seconds."""

# Read streamed answers in the calling thread. A hop through gRPC's own thread makes each call slower.
_READ_IN_CALLING_THREAD = (ChannelOptions.SingleThreadedUnaryStream, 1)

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


class Endpoint:
    """The address of a server and the settings of all calls to it."""

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = TIMEOUT_S,
        retry_policy: RetryPolicy | None = None,
        credentials: Credentials | None = None,
        keepalive: Keepalive | None = None,
    ) -> None:
        """Prepare calls to ``target``.

        Raises:
            ValueError: if a token would be sent to another machine without TLS.
            OSError: if the root certificates cannot be read.
            FailedPrecondition: if this process was forked while its parent used gRPC.
        """
        credentials = credentials or Credentials()
        self.target = target
        self.timeout_s = timeout_s
        self.retry_policy = retry_policy or RetryPolicy()
        self.metadata = credentials.metadata
        """Metadata that each call sends."""
        self._credentials = credentials.channel(target)
        self.guard = ProcessGuard()
        """Guard that every call passes."""
        self._options = [
            *channel_options(target, keepalive or Keepalive()),
            *self.guard.channel_options,
        ]


class Connection(Endpoint):
    """A channel for blocking calls, shared by any number of threads.

    The first call connects. A lost connection is restored by the next call.
    """

    @cached_property
    def channel(self) -> grpc.Channel:
        options = [*self._options, _READ_IN_CALLING_THREAD]
        if self._credentials:
            return grpc.secure_channel(self.target, self._credentials, options)
        return grpc.insecure_channel(self.target, options)

    def close(self) -> None:
        if self.guard.is_own_process:
            self.channel.close()

    def call(self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Answer]", request: _Request) -> _Answer:
        """Return the answer to a request, within the timeout.

        Raises:
            BlemishError: if the call fails.
        """
        try:
            with self.guard.call():
                return method(request, timeout=self.timeout_s, metadata=self.metadata)
        except grpc.RpcError as error:
            raise translate_error(error, self.target) from error

    def call_with_retries(
        self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Answer]", request: _Request
    ) -> _Answer:
        """Call as ``call`` does and retry while the server is unavailable.

        The request must be safe to send twice.
        """
        retries_end: float | None = None
        for pause_s in self.retry_policy.pauses_s():
            try:
                return self.call(method, request)
            except Unavailable as error:
                pause_s = max(pause_s, error.retry_after_s or 0.0)
                # Count from the first failure. A silent link takes longer to fail than all retries.
                retries_end = retries_end or time.monotonic() + self.retry_policy.call_s
                if time.monotonic() + pause_s > retries_end:
                    raise
                time.sleep(pause_s)
        raise AssertionError("the pauses of a retry policy never end; this is a bug")

    def call_without_timeout(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Answer]",
        request: _Request,
    ) -> _Answer:
        """Call as ``call`` does, but without a timeout."""
        try:
            with self.guard.call():
                return method(request, metadata=self.metadata)
        except grpc.RpcError as error:
            raise translate_error(error, self.target) from error

    def send(
        self,
        method: "grpc.StreamUnaryMultiCallable[_Request, _Answer]",
        requests: Iterator[_Request],
    ) -> _Answer:
        """Send all of ``requests`` and return the answer.

        Raises:
            BlemishError: if the call fails.
            Exception: any exception that ``requests`` raises.
        """
        failures: list[Exception] = []

        def capture_failure() -> Iterator[_Request]:
            # gRPC iterates in a thread of its own and reports a failure without its cause.
            try:
                yield from requests
            except Exception as error:
                failures.append(error)
                raise

        try:
            with self.guard.call():
                return method(capture_failure(), metadata=self.metadata)
        except grpc.RpcError as error:
            if failures:
                raise failures[0] from error
            raise translate_error(error, self.target) from error

    def stream(
        self,
        method: "grpc.UnaryStreamMultiCallable[_Request, _Answer]",
        request: _Request,
        timeout_s: float | None = None,
        *,
        without_timeout: bool = False,
    ) -> Iterator[_Answer]:
        """Yield the answers as they arrive. Closing the iterator ends the call.

        Raises:
            BlemishError: if the call fails.
        """
        limit_s = None if without_timeout else timeout_s or self.timeout_s
        with self.guard.call():
            answers = method(request, timeout=limit_s, metadata=self.metadata)
            try:
                for answer in answers:
                    yield answer
                    self.guard.check()
            except grpc.RpcError as error:
                raise translate_error(error, self.target) from error
            finally:
                if self.guard.is_own_process:
                    answers.cancel()


class AsyncConnection(Endpoint):
    """A channel for calls within an event loop."""

    @cached_property
    def channel(self) -> grpc.aio.Channel:
        self.guard.open_asyncio()
        if self._credentials:
            return grpc.aio.secure_channel(self.target, self._credentials, self._options)
        return grpc.aio.insecure_channel(self.target, self._options)

    async def close(self) -> None:
        if self.guard.is_own_process:
            await self.channel.close()
            self.guard.close_asyncio()

    async def call(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Answer]", request: _Request
    ) -> _Answer:
        """Return the answer to a request, as ``Connection.call`` does."""
        self.guard.check()
        try:
            return await method(request, timeout=self.timeout_s, metadata=self.metadata)
        except grpc.RpcError as error:
            raise translate_error(error, self.target) from error

    async def stream(
        self, method: "grpc.aio.UnaryStreamMultiCallable[_Request, _Answer]", request: _Request
    ) -> AsyncGenerator[_Answer]:
        """Yield the answers as they arrive, as ``Connection.stream`` does."""
        self.guard.check()
        call = method(request, timeout=self.timeout_s, metadata=self.metadata)
        try:
            async for answer in call:
                yield answer
                self.guard.check()
        except grpc.RpcError as error:
            raise translate_error(error, self.target) from error
        finally:
            if self.guard.is_own_process:
                call.cancel()


def pages(page: Callable[[str], tuple[Iterable[_Answer], str]]) -> Iterator[_Answer]:
    """Yield the items of all pages.

    Args:
        page: returns the items of the page for a token, and the token of the next page.
    """
    token = ""
    while True:
        items, token = page(token)
        yield from items
        if not token:
            return
