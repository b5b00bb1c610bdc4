# SPDX-License-Identifier: Apache-2.0
"""One connection to a server: how every call goes out and how its errors come back."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import grpc
from grpc.experimental import ChannelOptions

from blemish_client.errors import Unavailable, translated
from blemish_client.transport.credentials import LOOPBACK, Credentials
from blemish_client.transport.retry import Patience

MAX_MESSAGE_BYTES = 64 << 20
TIMEOUT_S = 30.0
"""Of a call, unless told."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # grpc waits up to two minutes before it looks for a server that went away.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
# Whoever reads a stream of answers takes them from the wire himself: by way of grpc's own thread a call
# takes some 0.5 ms longer.
_READ_DIRECTLY = (ChannelOptions.SingleThreadedUnaryStream, 1)

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


class Connection:
    """Opened by the first call, lost and found again without notice; many threads may share it."""

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float,
        patience: Patience,
        credentials: Credentials | None = None,
    ) -> None:
        shown = credentials or Credentials()
        self.target = target
        self.patience = patience
        self.metadata = shown.metadata
        """What each call carries."""
        self._timeout_s = timeout_s
        secured, told = shown.channel(target), [*options(target), _READ_DIRECTLY]
        self.channel = (
            grpc.secure_channel(target, secured, told) if secured else grpc.insecure_channel(target, told)
        )

    def close(self) -> None:
        self.channel.close()

    def call(self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Answer]", request: _Request) -> _Answer:
        """Return the answer, within the client's timeout.

        Raises:
            BlemishError: whatever went wrong.
        """
        try:
            return method(request, timeout=self._timeout_s, metadata=self.metadata)
        except grpc.RpcError as error:
            raise translated(error, self.target) from error

    def call_patiently(
        self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Answer]", request: _Request
    ) -> _Answer:
        """Like ``call``, for a request that may be sent twice: again while nobody answers."""
        give_up = time.monotonic() + self.patience.call_s
        for pause_s in self.patience.pauses_s():
            try:
                return self.call(method, request)
            except Unavailable as error:
                pause_s = max(pause_s, error.retry_after_s or 0.0)
                if time.monotonic() + pause_s > give_up:
                    raise
                time.sleep(pause_s)
        raise AssertionError("pauses never end; this is a bug")

    def call_at_length(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Answer]",
        request: _Request,
    ) -> _Answer:
        """Like ``call``, for work that takes the time it takes."""
        try:
            return method(request, metadata=self.metadata)
        except grpc.RpcError as error:
            raise translated(error, self.target) from error

    def send(
        self,
        method: "grpc.StreamUnaryMultiCallable[_Request, _Answer]",
        requests: Iterator[_Request],
    ) -> _Answer:
        """Send all of ``requests`` and return the answer; what they raise is raised here."""
        failures: list[Exception] = []

        def drawn() -> Iterator[_Request]:
            # In a thread of grpc's own, which answers a failure with an error that has lost its cause.
            try:
                yield from requests
            except Exception as error:
                failures.append(error)
                raise

        try:
            return method(drawn(), metadata=self.metadata)
        except grpc.RpcError as error:
            if failures:
                raise failures[0] from error
            raise translated(error, self.target) from error

    def stream(
        self,
        method: "grpc.UnaryStreamMultiCallable[_Request, _Answer]",
        request: _Request,
        timeout_s: float | None = None,
        *,
        at_length: bool = False,
    ) -> Iterator[_Answer]:
        """Yield the answers as they come; leaving the iterator ends the call.

        ``at_length`` is for those that take the time they take.
        """
        limit_s = None if at_length else timeout_s or self._timeout_s
        answers = method(request, timeout=limit_s, metadata=self.metadata)
        try:
            yield from answers
        except grpc.RpcError as error:
            raise translated(error, self.target) from error
        finally:
            answers.cancel()


def options(target: str) -> list[tuple[str, int]]:
    """Return the options of a channel to ``target``."""
    # A proxy of the environment leads away from this machine.
    return [*_OPTIONS, *([("grpc.enable_http_proxy", 0)] if target.startswith(LOOPBACK) else [])]


def pages(page: Callable[[str], tuple[Iterable[_Answer], str]]) -> Iterator[_Answer]:
    """Yield what is on the pages that ``page`` returns for a token, beside the next token."""
    token = ""
    while True:
        items, token = page(token)
        yield from items
        if not token:
            return
