# SPDX-License-Identifier: Apache-2.0
import asyncio
import resource

import pytest

from blemish_server.settings import ServerSettings
from blemish_server.transport.connections import StreamLifetime, connection_options


async def wait_for_end(lifetime: StreamLifetime, within_s: float) -> bool:
    """Return whether a stream that begins now has to end in time."""
    async with lifetime.of_stream() as ending:
        try:
            await asyncio.wait_for(ending.wait(), within_s)
        except TimeoutError:
            return False
        return True


def test_streams_end_at_their_age_or_when_the_server_stops() -> None:
    async def run() -> None:
        stopping = asyncio.Event()
        assert await wait_for_end(StreamLifetime(stopping, 0.05), 5)
        assert not await wait_for_end(StreamLifetime(stopping), 0.1)
        stopping.set()
        assert await wait_for_end(StreamLifetime(stopping), 5)
        assert await wait_for_end(StreamLifetime(stopping, 60), 5)

    asyncio.run(run())


def test_connections_have_no_maximum_age_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "grpc.max_connection_age_ms" not in dict(connection_options(ServerSettings()))
    monkeypatch.setenv("BLEMISH_MAX_CONNECTION_AGE_S", "90")
    options = dict(connection_options(ServerSettings()))
    assert options["grpc.max_connection_age_ms"] == 90_000
    assert options["grpc.max_connection_age_grace_ms"] == 7_200_000


def test_silent_clients_are_disconnected_within_two_minutes() -> None:
    options = dict(connection_options(ServerSettings()))
    assert options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"] <= 120_000


def test_handshakes_calls_and_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLEMISH_MAX_CONNECTIONS", "50")
    options = dict(connection_options(ServerSettings()))
    assert options["grpc.server_handshake_timeout_ms"] == 10_000
    assert options["grpc.http2.settings_timeout"] == 10_000
    # A client that sends more calls before it has read the limit loses them with UNAVAILABLE.
    assert options["grpc.max_concurrent_streams"] == 2048
    assert options["grpc.server.max_pending_requests"] == 20_000
    assert options["grpc.server.max_pending_requests_hard_limit"] == 40_000
    assert options["grpc.max_connection_idle_ms"] == 600_000
    assert options["grpc.max_allowed_incoming_connections"] == 50


@pytest.mark.parametrize(
    ("files", "connections"), [(256, 128), (1024, 768), (100_000, 4000), (resource.RLIM_INFINITY, 4000)]
)
def test_connections_leave_files_for_the_rest_of_the_server(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
    options = dict(connection_options(ServerSettings()))
    assert options["grpc.max_allowed_incoming_connections"] == connections
