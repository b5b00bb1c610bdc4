# SPDX-License-Identifier: Apache-2.0
"""Behaviour without Redis or Qdrant, and recovery when they return."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.support.ports import free_port
from tests.support.processes import running

from blemish_client import Client
from blemish_client.errors import Unavailable
from blemish_client.transport.retry import RetryPolicy
from blemish_core.platform.names import ModelRef
from blemish_core.search.item import Item, item_id
from blemish_core.search.search_index import SearchIndex
from blemish_local.redis import configure, find_server

DIMENSIONS = 8
HURRIED = RetryPolicy(first_pause_s=0.05, call_s=0.1)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def within(seconds: float, condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not within {seconds} s"
        time.sleep(0.1)


def indexed(port: int, version: str) -> None:
    """Fill an index with more hits than a connection buffers while its client does not read."""
    index, ref = SearchIndex.connect(f"http://127.0.0.1:{port}", port), ModelRef.parse(version)
    index.prepare(ref, DIMENSIONS)
    vectors = np.random.default_rng(0).standard_normal((1000, DIMENSIONS)).astype(np.float32)
    items = [
        Item(item_id(ref, digest), digest, 1.0, 0.5, anomalous=False, dataset="tile", category="x" * 2000)
        for digest in (f"{number:064x}" for number in range(1000))
    ]
    for first in range(0, 1000, 100):
        index.put(ref, items[first : first + 100], vectors[first : first + 100])
    index.publish(ref)


def health(address: str, service: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=2).status)
        except grpc.RpcError:
            return -1


def test_server_runs_without_redis_and_qdrant_and_finds_them_later(
    stack_data: Path, surfaces: Path, tile_model: str, tmp_path: Path
) -> None:
    port, redis_port, qdrant_port = free_port(), free_port(), free_port()
    redis_url = configure(tmp_path / "redis", redis_port)
    address = f"127.0.0.1:{port}"
    server = running(
        *(sys.executable, "-m", "blemish_server"),
        BLEMISH_LISTEN=address,
        BLEMISH_STORE=str(stack_data / "store"),  # of the running stack: replicas share it
        BLEMISH_IMPORT_ROOTS=str(surfaces),
        REDIS_URL=redis_url,
        QDRANT_URL=f"http://127.0.0.1:{free_port()}",
        QDRANT_GRPC_PORT=str(qdrant_port),
    )
    redis = running(
        *(str(find_server().executable), str(tmp_path / "redis" / "redis.conf")), folder=tmp_path / "redis"
    )
    qdrant = running(
        *(sys.executable, "-m", "blemish_local.qdrant"),
        *("--dir", str(tmp_path / "qdrant"), "--listen", f"127.0.0.1:{qdrant_port}"),
    )
    image = (surfaces / "tile" / "test" / "good" / "000.png").read_bytes()
    with server, Client(address, retry_policy=HURRIED) as client:
        within(60, lambda: health(address) == SERVING)
        assert health(address, "blemish.v1.InspectionService") == SERVING
        assert health(address, "blemish.v1.JobService") == NOT_SERVING
        assert health(address, "blemish.v1.SearchService") == NOT_SERVING
        told = {known.name: known for known in client.server_info().dependencies}
        assert not told["redis"].available
        assert "REDIS_URL" in told["redis"].detail
        assert not told["qdrant"].available
        assert "QDRANT_URL" in told["qdrant"].detail

        # Calls that need neither work; the others name the missing one.
        assert client.score(image, "tile").score > 0
        assert client.dataset("tile").train_images == 24
        for call, name in (
            (lambda: client.evaluate("tile", "tile"), "Redis"),
            (lambda: list(client.jobs()), "Redis"),
            (lambda: list(client.search(image, "tile")), "Qdrant"),
        ):
            with pytest.raises(Unavailable, match=name) as refusal:
                call()
            assert refusal.value.retry_after_s

        with redis:
            within(20, lambda: health(address, "blemish.v1.JobService") == SERVING)
            job = client.evaluate("tile", "tile")
            assert client.job(job.name).name == job.name
            assert health(address, "blemish.v1.SearchService") == NOT_SERVING
            with qdrant:
                within(30, lambda: health(address, "blemish.v1.SearchService") == SERVING)
                with pytest.raises(Exception, match="has no index yet"):
                    list(client.search(image, "tile"))
                indexed(qdrant_port, tile_model)
                found = client.search([1.0] * DIMENSIONS, "tile", 1000)
                hits = [next(found.hits)]
            with pytest.raises(Unavailable, match="Qdrant does not respond") as cut:
                hits += found
            assert cut.value.retry_after_s
            assert len({hit.item for hit in hits}) == len(hits) < 1000, "what came before stays valid"
            assert client.score(image, "tile").score > 0
            within(20, lambda: health(address, "blemish.v1.SearchService") == NOT_SERVING)
            assert client.job(job.name).name == job.name
        within(20, lambda: health(address, "blemish.v1.JobService") == NOT_SERVING)
        assert client.score(image, "tile").score > 0


def test_taken_port_is_reported(stack_address: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "blemish_server"],
        env=os.environ | {"BLEMISH_LISTEN": stack_address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "cannot listen on" in done.stderr
    assert "Traceback" not in done.stderr
