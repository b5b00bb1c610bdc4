# SPDX-License-Identifier: Apache-2.0
"""Connections to a server: channel options, timeouts, retries and errors."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Protocol, TypeVar

import grpc
import grpc.aio
from grpc.experimental import ChannelOptions

from blemish_client.errors import Unavailable, translate_error
from blemish_client.transport.channel import Keepalive, channel_options
from blemish_client.transport.credentials import Credentials
from blemish_client.transport.process import ProcessGuard
from blemish_client.transport.retry import CallRetries, RetryPolicy

TIMEOUT_S = 30.0
"""Default timeout of a call, in seconds."""

# Read streamed answers in the calling thread. A hop through gRPC's own thread makes each call slower.
_READ_IN_CALLING_THREAD = (ChannelOptions.SingleThreadedUnaryStream, 1)

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")
_Item = TypeVar("_Item")


class _ListRequest(Protocol):
    page_token: str


class _ListAnswer(Protocol):
    @property
    def next_page_token(self) -> str: ...


_ListRequestT = TypeVar("_ListRequestT", bound=_ListRequest)
_ListAnswerT = TypeVar("_ListAnswerT", bound=_ListAnswer)


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
        self._login = credentials or Credentials()
        self._keepalive = keepalive or Keepalive()
        self.target = target
        self.timeout_s = timeout_s
        self.retry_policy = retry_policy or RetryPolicy()
        self.metadata = self._login.metadata
        """Metadata that each call sends."""
        self._credentials = self._login.channel(target)
        self.guard = ProcessGuard()
        """Guard that every call passes."""
        self._options = [
            *channel_options(target, self._keepalive),
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
        retries = CallRetries(self.retry_policy)
        while True:
            try:
                return self.call(method, request)
            except Unavailable as error:
                time.sleep(retries.pause_s(error))

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

    def pages(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_ListRequestT, _ListAnswerT]",
        request: _ListRequestT,
        items: Callable[[_ListAnswerT], Iterable[_Item]],
    ) -> Iterator[_Item]:
        """Yield the items of all pages from that of ``request`` on; each page is requested when needed.

        Args:
            method: method that lists.
            request: request for the first page. Its token is changed.
            items: returns the items of a page.
        """
        while True:
            page = self.call(method, request)
            yield from items(page)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

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
        return await self._call(method, request, self.timeout_s)

    async def call_without_timeout(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Answer]", request: _Request
    ) -> _Answer:
        """Call as ``call`` does, but without a timeout."""
        return await self._call(method, request, None)

    async def call_with_retries(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Answer]", request: _Request
    ) -> _Answer:
        """Call as ``Connection.call_with_retries`` does."""
        retries = CallRetries(self.retry_policy)
        while True:
            try:
                return await self.call(method, request)
            except Unavailable as error:
                await asyncio.sleep(retries.pause_s(error))

    async def _call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_Request, _Answer]",
        request: _Request,
        timeout_s: float | None,
    ) -> _Answer:
        self.guard.check()
        try:
            return await method(request, timeout=timeout_s, metadata=self.metadata)
        except grpc.RpcError as error:
            raise translate_error(error, self.target) from error

    async def pages(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[_ListRequestT, _ListAnswerT]",
        request: _ListRequestT,
        items: Callable[[_ListAnswerT], Iterable[_Item]],
    ) -> AsyncGenerator[_Item]:
        """Yield the items of all pages, as ``Connection.pages`` does."""
        while True:
            page = await self.call(method, request)
            for item in items(page):
                yield item
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def send(
        self,
        method: "Callable[[grpc.Channel], grpc.StreamUnaryMultiCallable[_Request, _Answer]]",
        requests: Iterator[_Request],
    ) -> _Answer:
        """Send all of ``requests`` and return the answer, as ``Connection.send`` does.

        The call has a connection and a thread of its own, which also reads the files. If a call ends before
        a write, grpc.aio replaces its status, and the server's reason would be lost.

        Args:
            method: returns the method of a channel.
            requests: messages, which are taken in another thread.
        """
        self.guard.check()
        connection = Connection(
            self.target,
            timeout_s=self.timeout_s,
            retry_policy=self.retry_policy,
            credentials=self._login,
            keepalive=self._keepalive,
        )
        thread = ThreadPoolExecutor(1, "blemish-upload")
        try:
            call = partial(connection.send, method(connection.channel), requests)
            return await asyncio.get_running_loop().run_in_executor(thread, call)
        finally:
            connection.close()
            thread.shutdown(wait=False)

    async def stream(
        self,
        method: "grpc.aio.UnaryStreamMultiCallable[_Request, _Answer]",
        request: _Request,
        timeout_s: float | None = None,
        *,
        without_timeout: bool = False,
    ) -> AsyncGenerator[_Answer]:
        """Yield the answers as they arrive, as ``Connection.stream`` does."""
        self.guard.check()
        limit_s = None if without_timeout else timeout_s or self.timeout_s
        call = method(request, timeout=limit_s, metadata=self.metadata)
        try:
            async for answer in call:
                yield answer
                self.guard.check()
        except grpc.RpcError as error:
            raise translate_error(error, self.target) from error
        finally:
            if self.guard.is_own_process:
                call.cancel()
