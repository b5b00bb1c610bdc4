# SPDX-License-Identifier: Apache-2.0
"""Attacks on the connections of a running server, after which other callers are served."""

import asyncio
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from tests.integration.conftest import RunningStack, Start
from tests.support import http2

from blemish.v1.server_pb2 import GetServerInfoRequest
from blemish.v1.server_pb2_grpc import (
    ServerServiceServicer,
    ServerServiceStub,
    add_ServerServiceServicer_to_server,
)
from blemish_client import Client
from blemish_server.audit.log import AuditLog
from blemish_server.audit.recorder import AuditRecorder
from blemish_server.auth.authenticator import Authenticator
from blemish_server.auth.limits import CallerLimiter
from blemish_server.metrics.server_metrics import ServerMetrics
from blemish_server.transport.auditing import CallAuditor
from blemish_server.transport.interceptor import CallInterceptor

SEED = 20261202
INFO = "/blemish.v1.ServerService/GetServerInfo"
STREAM = "/blemish.v1.InspectionService/ScoreStream"


class Unreached(ServerServiceServicer):
    """A service whose calls end before it receives them."""

    async def GetServerInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        pytest.fail("the request is incomplete")


def connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    connected = socket.create_connection((host, int(port)), timeout=10)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def ended_within(connection: socket.socket, timeout_s: float) -> bool:
    """Return whether the server ends a connection within a time."""
    give_up_s = time.monotonic() + timeout_s
    while (left_s := give_up_s - time.monotonic()) > 0:
        connection.settimeout(left_s)
        try:
            if not connection.recv(65536):
                return True
        except TimeoutError:
            return False
        except OSError:
            return True
    return False


@pytest.mark.parametrize("name", [name for name, _ in http2.malformed(INFO, SEED)])
def test_malformed_connection_harms_no_other(stack: RunningStack, name: str) -> None:
    sent = dict(http2.malformed(INFO, SEED))[name]
    with Client(stack.address, timeout_s=10) as client:
        started = client.server_info().start_time
        with connect(stack.address) as attacker:
            attacker.settimeout(5)
            with suppress(OSError):  # the server may end it before all was sent
                attacker.sendall(sent)
            assert client.server_info().start_time == started
        with Client(stack.address, timeout_s=10) as new:
            assert new.server_info().start_time == started


def test_calls_that_are_cancelled_at_once_drop_no_call_of_others(stack: RunningStack) -> None:
    resets = (http2.call(INFO, number, end=False) + http2.reset(number) for number in range(1, 32_000, 2))
    flood = http2.PREFACE + http2.frame(http2.SETTINGS) + b"".join(resets)
    with connect(stack.address) as attacker, ThreadPoolExecutor(1) as background:

        def attack() -> None:
            with suppress(OSError):  # the server may end it before all was sent
                attacker.sendall(flood)

        attacking = background.submit(attack)
        for _ in range(12):
            with Client(stack.address, timeout_s=10) as other:
                other.server_info()
        attacking.result(30)


def test_burst_of_calls_on_one_connection_is_answered(stack: RunningStack) -> None:
    with grpc.insecure_channel(stack.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub: Any = ServerServiceStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
        calls = [stub.GetServerInfo.future(GetServerInfoRequest(), timeout=60) for _ in range(2000)]
        assert {call.code() for call in calls} == {grpc.StatusCode.OK}


def test_connection_without_a_handshake_is_ended(stack: RunningStack) -> None:
    with ExitStack() as opened:
        silent, begun, half = (opened.enter_context(connect(stack.address)) for _ in range(3))
        begun.sendall(http2.PREFACE[:10])
        half.sendall(http2.PREFACE + http2.frame(http2.SETTINGS))  # and no acknowledgement
        assert all(ended_within(connection, 25) for connection in (silent, begun, half))


def test_handshake_of_a_byte_at_a_time_is_ended(stack: RunningStack) -> None:
    with connect(stack.address) as slow, pytest.raises(OSError):
        give_up_s = time.monotonic() + 40
        for byte in (http2.PREFACE * 100)[:23]:
            assert time.monotonic() < give_up_s
            slow.sendall(bytes([byte]))
            time.sleep(0.8)
        time.sleep(1)
        slow.sendall(b"x")
        time.sleep(1)
        slow.sendall(b"x")


def test_connections_above_the_limit_are_ended_and_others_stay(start: Start, address: str) -> None:
    start(BLEMISH_MAX_CONNECTIONS="20")
    with Client(address, timeout_s=10) as client:
        client.server_info()
        with ExitStack() as opened:
            flood = [opened.enter_context(connect(address)) for _ in range(60)]
            time.sleep(0.5)
            assert sum(ended_within(connection, 0.05) for connection in flood) >= 35
            client.server_info()
    give_up_s = time.monotonic() + 15
    while True:
        with Client(address, timeout_s=2) as again, suppress(Exception):
            again.server_info()
            return
        assert time.monotonic() < give_up_s


async def test_request_of_which_only_a_part_arrives_is_ended(tmp_path: Path) -> None:
    auditor = CallAuditor(AuditRecorder(AuditLog(tmp_path)))
    server = grpc.aio.server(
        interceptors=[
            CallInterceptor(
                Authenticator(None),
                CallerLimiter(),
                auditor,
                ServerMetrics(),
                lambda: False,
                request_timeout_s=1.0,
            )
        ]
    )
    add_ServerServiceServicer_to_server(Unreached(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened = http2.PREFACE + http2.frame(http2.SETTINGS) + http2.call(INFO, 1, end=False)
        writer.write(opened + http2.frame(http2.DATA, b"\0\0\0\1\0" + bytes(100), stream=1))
        answer = b""
        async with asyncio.timeout(15):
            while b"did not arrive within" not in answer:
                answer += await reader.readexactly(1)
        writer.close()
    finally:
        await server.stop(0)


def test_many_silent_streams_harm_no_other(stack: RunningStack) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(stack.address, options) as channel, Client(stack.address) as client:

        def silent() -> Iterator[bytes]:
            time.sleep(20)
            yield b""

        call: Any = channel.stream_stream(STREAM)
        calls = [call(silent(), timeout=15) for _ in range(100)]
        started = client.server_info().start_time
        for each in calls:
            each.cancel()
        assert client.server_info().start_time == started
