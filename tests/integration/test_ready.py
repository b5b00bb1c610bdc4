# SPDX-License-Identifier: Apache-2.0
"""A server is SERVING only once its models are loaded, and their memory is bounded."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from blemish_client import BlemishError, Client
from blemish_client.errors import Unavailable

if TYPE_CHECKING:
    from tests.integration.conftest import RunningStack, Start

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def healths(address: str, seconds: float = 60) -> list[int]:
    """Return the health states from the first answer to SERVING."""
    said: list[int] = []
    eager = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 20)]
    with grpc.insecure_channel(address, eager) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        give_up = time.monotonic() + seconds
        while SERVING not in said and time.monotonic() < give_up:
            try:
                service = health_pb2.HealthCheckRequest(service="blemish.v1.InspectionService")
                said.append(check(service, timeout=5, wait_for_ready=True).status)
            except grpc.RpcError:
                pass
            time.sleep(0.005)
    return said


def test_production_models_are_loaded_before_health_is_serving(
    launch: Start, address: str, tile_model: str
) -> None:
    launch(BLEMISH_PRELOAD="true")
    said = healths(address)
    assert said[0] == NOT_SERVING  # it answers while it loads, with NOT_SERVING
    assert said[-1] == SERVING
    with Client(address) as client:
        info = client.server_info()
    assert tile_model in info.loaded_models
    assert 0 < info.loaded_bytes <= info.max_loaded_bytes


def test_sigterm_during_warmup_ends_the_server(launch: Start, address: str, tile_model: str) -> None:
    server = launch(BLEMISH_PRELOAD="true")
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(60)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_health_watcher_does_not_delay_shutdown(start: Start, address: str) -> None:
    server = start(BLEMISH_GRACE_S="60")
    with grpc.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        told = []
        for each in watch:
            told.append(each.status)
            if told[-1] == SERVING:
                server.send_signal(signal.SIGTERM)
    assert told[-2:] == [SERVING, NOT_SERVING]
    assert server.wait(30) == 0


def test_calls_during_shutdown_are_answered_or_refused_as_ending(
    start: Start, address: str, tile_model: str, surfaces: Path
) -> None:
    server = start(BLEMISH_PRELOAD="true")
    picture = (surfaces / "tile/test/good/000.png").read_bytes()
    scored = threading.Semaphore(0)

    def call_until_refused() -> BlemishError:
        with Client(address) as client:
            while True:
                try:
                    client.score(picture, "tile")
                except BlemishError as error:
                    return error
                scored.release()

    with ThreadPoolExecutor(6) as callers:
        told = [callers.submit(call_until_refused) for _ in range(6)]
        for _ in range(12):
            scored.acquire(timeout=60)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        assert {type(each.result(60)) for each in told} == {Unavailable}


def test_least_recently_used_model_is_unloaded(
    stack: RunningStack, start: Start, address: str, tile_model: str, surfaces: Path
) -> None:
    models = stack.data / "store/models"
    shutil.copytree(models / "tile", models / "copied")
    start(BLEMISH_MAX_LOADED_BYTES=str(1 << 20))
    picture = (surfaces / "tile/test/good/000.png").read_bytes()
    with Client(address) as client:
        for _ in range(2):
            for model in ("tile", "copied"):
                assert client.score(picture, f"{model}/1").score > 0
                assert client.server_info().loaded_models == [f"models/{model}/versions/1"]
