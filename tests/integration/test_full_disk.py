# SPDX-License-Identifier: Apache-2.0
"""A server whose disk has no space for its log, its frames and its jobs goes on scoring."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Semaphore
from typing import IO
from urllib.request import urlopen

import grpc
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.integration.conftest import RunningStack
from tests.support.cli import Run, run_against
from tests.support.ports import free_port
from tests.support.processes import stop, wait_for_file, wait_for_port, wait_for_text
from tests.support.redis_server import running_redis

from blemish.v1.image_pb2 import VERDICT_UNSPECIFIED
from blemish.v1.inspection_pb2 import STORE_ALL, STREAM_POLICY_BLOCK
from blemish.v1.server_pb2 import GetServerInfoResponse
from blemish_client import Client
from blemish_client.errors import NotFound, ResourceExhausted
from blemish_client.streaming.ledger import FrameResult
from blemish_core.jobs.worker_registry import WorkerRegistry

FULL = Path("/dev/full")

pytestmark = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")


@pytest.fixture(scope="module")
def metrics() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def full_server(stack: RunningStack, tile_model: str, metrics: str) -> Iterator[str]:
    """Yield the address of a server whose log is on a full disk, and whose store counts as full."""
    address = f"127.0.0.1:{free_port()}"
    exports = (stack.data / "run" / "environment.sh").read_text().splitlines()
    stack_environment = dict(shlex.split(line)[1].split("=", 1) for line in exports)
    with FULL.open("wb") as full:
        server = subprocess.Popen(
            [sys.executable, "-m", "blemish_server"],
            env=os.environ
            | stack_environment
            | {
                "BLEMISH_LISTEN": address,
                "BLEMISH_METRICS_LISTEN": metrics,
                "BLEMISH_MIN_FREE_BYTES": str(1 << 60),
            },
            stdout=full,
            stderr=full,
        )
    try:
        wait_for_port(address, server)
        give_up_s = time.monotonic() + 60
        while health(address, "") != health_pb2.HealthCheckResponse.SERVING:  # calls precede warm models
            assert time.monotonic() < give_up_s
            time.sleep(0.1)
        yield address
    finally:
        stop(server)


def health(address: str, service: str) -> int:
    """Return the status of a service."""
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status)


@pytest.fixture
def full_client(full_server: str) -> Iterator[Client]:
    with Client(full_server) as client:
        yield client


@pytest.fixture
def run(full_server: str) -> Run:
    return run_against(full_server)


@pytest.fixture
def picture(surfaces: Path) -> Path:
    return next(iter(sorted((surfaces / "tile/test").glob("[!g]*/*.png"))))


def test_refused_call_keeps_its_status_although_its_log_line_is_lost(
    full_client: Client, run: Run, picture: Path, metrics: str
) -> None:
    with pytest.raises(NotFound):
        full_client.score(picture.read_bytes(), "nosuch")

    failed = run("score", picture, "-m", "nosuch")

    assert failed.exit_code == 3
    assert "there is no model 'nosuch'" in failed.stderr
    samples = urlopen(f"http://{metrics}/metrics", timeout=20).read().decode()
    (lost,) = (line for line in samples.splitlines() if line.startswith("blemish_lost_log_lines_total"))
    assert float(lost.split()[1]) >= 2


def test_stream_ends_in_order_with_a_note_that_its_frames_are_not_kept(
    full_client: Client, picture: Path, tile_model: str
) -> None:
    results = list(
        full_client.stream(
            [picture.read_bytes()] * 3,
            tile_model,
            policy=STREAM_POLICY_BLOCK,
            camera="line-3",
            store=STORE_ALL,
        )
    )

    assert all(isinstance(result, FrameResult) for result in results)
    answers = [result.answer for result in results if isinstance(result, FrameResult)]
    assert [answer.sequence for answer in answers] == [0, 1, 2]
    notes = [list(answer.inspection.notes) for answer in answers]
    assert [len(each) for each in notes] == [1, 0, 0], "a stream repeats no note"
    assert "not kept, because the disk of the server's store is full; free some space" in notes[0][0]


def test_job_is_rejected_with_a_sentence(full_client: Client, run: Run) -> None:
    with pytest.raises(ResourceExhausted) as caught:
        full_client.train("tile")
    assert caught.value.reason == "DISK_FULL"

    failed = run("train", "tile")

    assert failed.exit_code == 4
    assert "BLEMISH_MIN_FREE_BYTES; free some space" in failed.stderr


def test_info_health_and_metrics_show_the_full_disk(
    full_server: str, full_client: Client, run: Run, metrics: str, picture: Path, tile_model: str
) -> None:
    list(full_client.stream([picture.read_bytes()], tile_model, camera="line-3"))

    shown = " ".join(run("info").stdout.split())

    assert "full: the disk that holds" in shown
    assert "line-3" in shown
    assert health(full_server, "blemish.disk") == health_pb2.HealthCheckResponse.NOT_SERVING
    assert health(full_server, "blemish.v1.InspectionService") == health_pb2.HealthCheckResponse.SERVING
    assert health(full_server, "") == health_pb2.HealthCheckResponse.SERVING
    samples = urlopen(f"http://{metrics}/metrics", timeout=20).read().decode()
    assert "blemish_disk_full 1.0" in samples
    assert "blemish_disk_free_bytes " in samples


def test_running_stream_is_shown_with_its_rate_and_last_verdict(
    full_server: str, full_client: Client, picture: Path, tile_model: str
) -> None:
    shown: list[GetServerInfoResponse] = []
    answered = Semaphore(0)

    def frames() -> Iterator[bytes]:
        for _ in range(3):
            yield picture.read_bytes()
            assert answered.acquire(timeout=30)
        with Client(full_server) as other:
            shown.append(other.server_info())

    for _ in full_client.stream(frames(), tile_model, policy=STREAM_POLICY_BLOCK, camera="line-4"):
        answered.release()

    (stream,) = shown[0].streams
    assert (stream.model, list(stream.cameras), stream.frames) == (tile_model, ["line-4"], 3)
    assert stream.frames_per_second > 0
    assert stream.last.model_version == tile_model
    (camera,) = (camera for camera in shown[0].cameras if camera.camera == "line-4")
    assert camera.images_per_second > 0
    assert camera.last.verdict == stream.last.verdict != VERDICT_UNSPECIFIED
    with Client(full_server) as other:
        assert not other.server_info().streams


def run_worker(output: IO[bytes], url: str, folder: Path) -> "subprocess.Popen[bytes]":
    """Start a worker, and return once it is ready."""
    ready = folder / "ready"
    worker = subprocess.Popen(
        [sys.executable, "-m", "blemish_workers"],
        env=os.environ | {"REDIS_URL": url, "BLEMISH_STORE": str(folder), "BLEMISH_READY_FILE": str(ready)},
        stdout=output,
        stderr=output,
    )
    try:
        wait_for_file(ready, worker)
    except BaseException:
        stop(worker)
        raise
    return worker


def test_worker_starts_with_its_log_on_a_full_disk(tmp_path: Path) -> None:
    port = free_port()
    with running_redis(tmp_path / "redis", port), FULL.open("wb") as full:
        stop(run_worker(full, f"redis://127.0.0.1:{port}/0", tmp_path))


def test_worker_outlives_a_redis_that_accepts_no_changes(tmp_path: Path) -> None:
    """Redis refuses commands while its own disk is full, with an error of the same kind."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    log = tmp_path / "worker.log"
    with running_redis(tmp_path / "redis", port), log.open("wb") as output:
        worker = run_worker(output, url, tmp_path)
        try:
            control = redis.Redis.from_url(url)
            control.config_set("min-replicas-to-write", 1)
            wait_for_text(log, "NOREPLICAS", worker)
            wait_for_text(log, "Connection to broker lost", worker)
            control.config_set("min-replicas-to-write", 0)
            control.flushdb()  # only a new heartbeat of the same worker fills the registry again
            registry = WorkerRegistry.connect(url)
            give_up = time.monotonic() + 20
            while not registry.workers():
                assert worker.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.2)
        finally:
            stop(worker)
