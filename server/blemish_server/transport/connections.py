# SPDX-License-Identifier: Apache-2.0
"""The life of connections and streams: pings, silent clients, and the age of connections."""

import asyncio
import math
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from blemish_server.settings import ServerSettings

# Clients send a ping every ten seconds or more. Half of that leaves room for delays on the way.
_MIN_PING_INTERVAL_S = 5.0
# gRPC varies the age at which it ends a connection by a tenth.
_AGE_VARIATION = 0.1
_AFTER_AGE_S = 1.0
# By default gRPC waits two minutes for a handshake, and an attacker can hold sockets with little traffic.
_HANDSHAKE_TIMEOUT_S = 10.0
# Clients connect again with their next call.
_IDLE_S = 600.0
# Without this limit a flood of calls that are cancelled at once delays the calls of others by seconds.
# A connection that begins more calls at once is refused some of them.
_CALLS_PER_CONNECTION = 2048
# From 1000 waiting calls on gRPC drops calls at random, those of other callers too. One takes about 25 kB.
_WAITING_CALLS = 20_000
# Files of the process that remain for images, models, Redis and Qdrant.
_RESERVED_FILES = 256


def connection_options(settings: ServerSettings) -> list[tuple[str, int]]:
    """Return the gRPC options of the server's connections."""
    keepalive_ms = _milliseconds(settings.keepalive_s)
    options = [
        # Welcome pings of clients, with and without calls.
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(_MIN_PING_INTERVAL_S)),
        ("grpc.keepalive_permit_without_calls", 1),
        # Detect clients that are gone without a word.
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        # gRPC 1.85 only obeys this limit for pings, and its default is a minute.
        ("grpc.http2.ping_timeout_ms", keepalive_ms),
        # End connections that never complete a handshake, and those without calls.
        ("grpc.server_handshake_timeout_ms", _milliseconds(_HANDSHAKE_TIMEOUT_S)),
        ("grpc.http2.settings_timeout", _milliseconds(_HANDSHAKE_TIMEOUT_S)),
        ("grpc.max_connection_idle_ms", _milliseconds(_IDLE_S)),
        ("grpc.max_allowed_incoming_connections", _max_connections(settings)),
        ("grpc.max_concurrent_streams", _CALLS_PER_CONNECTION),
        ("grpc.server.max_pending_requests", _WAITING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _WAITING_CALLS),
    ]
    if settings.max_connection_age_s:
        options += [
            ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_age_s)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(settings.max_connection_grace_s)),
        ]
    return options


class StreamLifetime:
    """The time after which a stream of frames ends, so that its client connects again."""

    def __init__(self, stopping: asyncio.Event, max_age_s: float = math.inf) -> None:
        """End streams once ``stopping`` is set, or ``max_age_s`` after they began."""
        self._stopping = stopping
        self._max_age_s = max_age_s

    @classmethod
    def of(cls, settings: ServerSettings, stopping: asyncio.Event) -> "StreamLifetime":
        """Let streams end just after the age of their connection, so that they move to a new one."""
        age_s = settings.max_connection_age_s
        return cls(stopping, (1 + _AGE_VARIATION) * age_s + _AFTER_AGE_S if age_s else math.inf)

    @property
    def is_stopping(self) -> bool:
        """True once the server is stopping."""
        return self._stopping.is_set()

    @asynccontextmanager
    async def of_stream(self) -> AsyncIterator[asyncio.Event]:
        """Yield the event that is set when a stream that begins now has to end."""
        ending = asyncio.Event()

        async def end() -> None:
            try:
                async with asyncio.timeout(None if math.isinf(self._max_age_s) else self._max_age_s):
                    await self._stopping.wait()
            except TimeoutError:
                pass  # the stream has reached its age
            ending.set()

        task = asyncio.create_task(end())
        try:
            yield ending
        finally:
            task.cancel()


def _max_connections(settings: ServerSettings) -> int:
    """Return the largest number of connections, for which the process may open enough files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return settings.max_connections
    return min(settings.max_connections, max(files - _RESERVED_FILES, files // 2))


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
