# SPDX-License-Identifier: Apache-2.0
"""Connections of clients that ping, that vanish, and that move between several servers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from qdrant_client import grpc as qdrant
from tests.support.name_server import NameServer
from tests.support.ports import free_port
from tests.support.processes import wait_for_port
from tests.support.relay import Relay

from blemish.v1.inspection_pb2 import STREAM_POLICY_BLOCK, STREAM_POLICY_LATEST, StreamPolicy
from blemish_client import AsyncClient, Client, FrameResult, LostFrames

if TYPE_CHECKING:
    from tests.integration.conftest import RunningStack, Start

Results = list[FrameResult | LostFrames]


@pytest.fixture(scope="module")
def picture(surfaces: Path) -> bytes:
    return (surfaces / "tile" / "test/good/000.png").read_bytes()


@pytest.fixture
def embedded_qdrant(tmp_path: Path) -> Iterator[str]:
    """Yield the address of an embedded Qdrant."""
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "blemish_local.qdrant", "--dir", str(tmp_path / "q"), "--listen", address],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for_port(address, process)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def test_pings_are_welcome_with_and_without_calls(stack: RunningStack, embedded_qdrant: str) -> None:
    """GRPC refuses the fourth ping that comes too early, and then closes the connection."""
    pinging = [
        ("grpc.keepalive_time_ms", 6_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]

    def call_server(channel: grpc.Channel) -> None:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)

    def call_qdrant(channel: grpc.Channel) -> None:
        stub = qdrant.QdrantStub(channel)  # type: ignore[no-untyped-call]
        stub.HealthCheck(qdrant.HealthCheckRequest(), timeout=10)

    with ExitStack() as resources:

        def connect(target: str) -> tuple[Relay, grpc.Channel]:
            relay = resources.enter_context(Relay(target))
            return relay, resources.enter_context(grpc.insecure_channel(relay.address, pinging))

        idle, idle_channel = connect(stack.address)
        quiet, quiet_channel = connect(stack.address)
        index, index_channel = connect(embedded_qdrant)
        call_server(idle_channel)
        call_qdrant(index_channel)
        watch = health_pb2_grpc.HealthStub(quiet_channel).Watch(health_pb2.HealthCheckRequest())
        next(watch)
        time.sleep(26)
        call_server(idle_channel)
        call_qdrant(index_channel)
        assert watch.is_active()
        watch.cancel()
        assert [relay.accepted for relay in (idle, quiet, index)] == [1, 1, 1]


def open_streams(metrics: str) -> float:
    """Return the number of open streams by the metrics of a server."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as response:
        text = response.read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "blemish_streams"
    )


def test_streams_of_vanished_clients_end(
    start: Start, address: str, picture: bytes, tile_model: str
) -> None:
    metrics = f"127.0.0.1:{free_port()}"
    start(BLEMISH_METRICS_LISTEN=metrics, BLEMISH_KEEPALIVE_S="1")
    answered, gone = threading.Event(), threading.Event()

    def frames() -> Iterator[bytes]:
        yield picture
        gone.wait(60)

    def stream(relay: Relay) -> None:
        with Client(relay.address) as client:
            for _ in client.stream(frames(), tile_model, policy=STREAM_POLICY_BLOCK):
                answered.set()

    with Relay(address) as relay, ThreadPoolExecutor(1) as thread:
        streaming = thread.submit(stream, relay)
        try:
            assert answered.wait(60)
            assert open_streams(metrics) == 1
            relay.silence(discard=True)
            deadline = time.monotonic() + 20
            while open_streams(metrics) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert open_streams(metrics) == 0
        finally:
            relay.resume()
            relay.cut()
            gone.set()
            streaming.result(60)


@pytest.fixture
def two_servers(stack: RunningStack) -> Iterator[tuple[str, str]]:
    """Yield the addresses of two servers whose connections get old after a second and a half."""
    port = free_port()
    addresses = (f"127.0.0.1:{port}", f"127.0.0.2:{port}")
    with ExitStack() as running:
        for address in addresses:
            process = subprocess.Popen(
                [sys.executable, "-m", "blemish_server"],
                env=os.environ
                | {
                    "BLEMISH_LISTEN": address,
                    "BLEMISH_STORE": str(stack.data / "store"),
                    "REDIS_URL": "redis://127.0.0.1:1/0",  # scoring needs neither
                    "QDRANT_URL": "http://127.0.0.1:1",
                    "BLEMISH_MAX_CONNECTION_AGE_S": "1.5",
                },
                stdout=subprocess.DEVNULL,
            )
            running.callback(process.wait, 30)
            running.callback(process.terminate)
            wait_for_port(address, process)
            with Client(address) as client:
                client.server_info()
        yield addresses


def stream_blocking(
    address: str, images: Iterator[bytes], model: str, policy: StreamPolicy.ValueType
) -> Results:
    with Client(address) as client:
        return list(client.stream(images, model, policy=policy))


def stream_in_event_loop(
    address: str, images: Iterator[bytes], model: str, policy: StreamPolicy.ValueType
) -> Results:
    async def run() -> Results:
        async with AsyncClient(address) as client:
            return [result async for result in client.stream(images, model, policy=policy)]

    return asyncio.run(run())


def camera(picture: bytes, seconds: float) -> Iterator[bytes]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
        yield picture


def named(results: Results) -> list[int]:
    """Return the numbers of all frames that are answered, dropped or lost."""
    numbers: list[int] = []
    for result in results:
        if isinstance(result, LostFrames):
            numbers += result.sequences
        else:
            first = result.answer.sequence
            last = result.answer.dropped.last_sequence if result.answer.HasField("dropped") else first
            numbers += range(first, last + 1)
    return numbers


def test_clients_move_between_servers_without_errors(
    two_servers: tuple[str, str], picture: bytes, tile_model: str
) -> None:
    def call_for_8_s(address: str) -> int:
        calls = 0
        with Client(address) as client:
            for image in camera(picture, 8):
                client.score(image, tile_model)
                calls += 1
        return calls

    streams: tuple[tuple[Callable[..., Results], StreamPolicy.ValueType], ...] = (
        (stream_blocking, STREAM_POLICY_BLOCK),
        (stream_in_event_loop, STREAM_POLICY_BLOCK),
        (stream_blocking, STREAM_POLICY_LATEST),
        (stream_in_event_loop, STREAM_POLICY_LATEST),
    )
    with ExitStack() as links, ThreadPoolExecutor(5) as threads:
        balancers = [links.enter_context(Relay(*two_servers)) for _ in range(5)]
        running = [
            threads.submit(stream, balancer.address, camera(picture, 8), tile_model, policy)
            for (stream, policy), balancer in zip(streams, balancers, strict=False)
        ]
        calls = threads.submit(call_for_8_s, balancers[-1].address)
        blocking, in_event_loop, *latest = [each.result(60) for each in running]
        assert calls.result(60) > 10
        assert all(balancer.accepted >= 3 for balancer in balancers)
    for results in (blocking, in_event_loop):
        answers = [result.answer for result in results if isinstance(result, FrameResult)]
        assert len(answers) == len(results)
        assert all(answer.HasField("inspection") for answer in answers)
    for results in (blocking, in_event_loop, *latest):
        assert named(results) == [*range(len(named(results)))]


def test_calls_use_all_addresses_of_a_name(
    two_servers: tuple[str, str], picture: bytes, tile_model: str
) -> None:
    (first, port), (second, _) = (address.split(":") for address in two_servers)
    with NameServer(first, second) as names:
        target = f"dns://{names.address}/servers.test:{port}"

        async def call_in_event_loop() -> None:
            async with AsyncClient(target) as client:
                for _ in range(20):
                    await client.score(picture, tile_model)

        before = [scored(address, tile_model) for address in two_servers]
        with Client(target) as client:
            for _ in range(20):
                client.score(picture, tile_model)
        between = [scored(address, tile_model) for address in two_servers]
        asyncio.run(call_in_event_loop())
        after = [scored(address, tile_model) for address in two_servers]
    for earlier, later in ((before, between), (between, after)):
        assert all(late - early >= 5 for early, late in zip(earlier, later, strict=True))


def scored(address: str, model: str) -> int:
    """Return the number of images that a server has scored, by the statistics of its models."""
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        statistics = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStatistics(
            service_pb2.ModelStatisticsRequest(), timeout=10
        )
    return sum(each.inference_count for each in statistics.model_stats)
