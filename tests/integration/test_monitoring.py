# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of a running server: right counts, documented names."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.integration.conftest import RunningStack, Start
from tests.support.ports import free_port
from tritonclient import grpc as triton

from blemish.v1 import job_pb2
from blemish.v1.inspection_pb2 import STREAM_POLICY_BLOCK
from blemish.v1.job_pb2_grpc import JobServiceStub
from blemish_client import Client
from blemish_client.errors import BlemishError, InvalidArgument

DOCUMENT = Path(__file__).parents[2] / "docs/guides/monitoring.md"


class Scrape:
    def __init__(self, address: str) -> None:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        self.names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in families:
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def sum(self, name: str, **labels: str) -> float:
        """Return the sum of all samples of a name that have these labels."""
        return sum(value for of, value in self._samples[name] if labels.items() <= of.items())


def within(seconds: float, condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.fixture
def scrape(stack: RunningStack) -> Callable[[], Scrape]:
    return lambda: Scrape(stack.metrics)


def test_every_inspection_is_counted_once(
    client: Client, stack: RunningStack, tile_model: str, scrape: Callable[[], Scrape]
) -> None:
    good, oil = ((stack.surfaces / f"tile/test/{kind}/000.png").read_bytes() for kind in ("good", "oil"))
    before = scrape()
    client.score(good, "tile")
    client.score(oil, "tile", camera="left")
    with pytest.raises(InvalidArgument):
        client.score(b"not an image", "tile")
    policy = STREAM_POLICY_BLOCK
    assert (
        len(list(client.stream([oil, b"not an image", oil, good], "tile", policy=policy, camera="right")))
        == 4
    )
    tensor = triton.InferInput("image", [2], "BYTES")
    tensor.set_data_from_numpy(np.array([good, oil], dtype=np.object_))
    with triton.InferenceServerClient(stack.address) as other:
        other.infer("tile", [tensor])
    list(client.search(oil, "tile", 3, region=(10, 10, 40, 40)))  # looks at images, and judges none
    after = scrape()

    def more(name: str, **labels: str) -> float:
        return after.sum(name, **labels) - before.sum(name, **labels)

    model, _, version = tile_model.removeprefix("models/").partition("/versions/")
    of = {"model": model, "version": version}
    assert more("blemish_inspections_total", **of, verdict="normal") == 3
    assert more("blemish_inspections_total", **of, verdict="anomalous") == 4
    assert more("blemish_p_value_count", **of) == 7
    assert more("blemish_p_value_bucket", **of, le="0.25") >= 4, "what was rejected is rare among good ones"
    assert more("blemish_camera_inspections_total", camera="left", verdict="anomalous") == 1
    assert more("blemish_camera_inspections_total", camera="right") == 3
    assert more("blemish_camera_low_p_values_total", camera="right") >= 2
    for stage in ("queue", "decode", "inference"):
        assert more("blemish_inspection_seconds_count", **of, stage=stage) == 7
    assert more("blemish_inspection_seconds_sum", **of, stage="inference") > 0
    assert more("blemish_streamed_frames_total", policy="block") == 4
    assert more("blemish_refused_frames_total", reason="INVALID_IMAGE") == 1
    assert after.sum("blemish_streams") == 0
    score = {"grpc_service": "blemish.v1.InspectionService", "grpc_method": "Score"}
    assert more("grpc_server_started_total", **score) == 3
    assert more("grpc_server_handled_total", **score, grpc_code="OK") == 2
    assert more("grpc_server_handled_total", **score, grpc_code="INVALID_ARGUMENT") == 1
    assert more("grpc_server_handling_seconds_count", grpc_method="ScoreStream") == 1
    assert more("grpc_server_handled_total", grpc_service="inference.GRPCInferenceService") == 1


def test_gauges_report_the_present_state(
    client: Client, tile_model: str, scrape: Callable[[], Scrape], surfaces: Path
) -> None:
    client.score((surfaces / "tile/test/good/000.png").read_bytes(), tile_model)
    before = scrape()
    job = client.train("tile", model_id="counted")
    try:
        now = scrape()
        assert now.sum("blemish_unfinished_jobs", kind="train") == 1
        assert now.sum("blemish_workers") == 1
    finally:
        client.cancel(job.name)
        client.wait(job)
    assert now.sum("blemish_dependency_up") == 2
    assert now.sum("blemish_loaded_bytes") == client.server_info().loaded_bytes > 0
    after = scrape()
    assert after.sum("blemish_unfinished_jobs") == 0
    ended = {"kind": "train", "state": "cancelled"}
    assert (
        after.sum("blemish_ended_jobs_total", **ended)
        == before.sum("blemish_ended_jobs_total", **ended) + 1
    )
    assert after.sum("blemish_ended_jobs_total", kind="train", state="succeeded") >= 1


def test_documented_metrics_equal_exported_metrics(
    scrape: Callable[[], Scrape], client: Client, tile_model: str
) -> None:
    with suppress(BlemishError):
        list(client.stream([b"not an image"], "tile", policy=STREAM_POLICY_BLOCK))
    documented = set(re.findall(r"^\| `(\w+)`", DOCUMENT.read_text(), re.MULTILINE))
    told = {name for name in scrape().names if not name.startswith("process_")}
    assert {"blemish_unfinished_jobs"} | told == documented  # absent where there is none


def test_passed_deadline_and_cancelled_call_are_counted_apart(
    client: Client, stack: RunningStack, scrape: Callable[[], Scrape], tile_model: str
) -> None:
    job = client.train("tile", model_id="watched")

    def ended(code: str, now: Scrape) -> float:
        return now.sum("grpc_server_handled_total", grpc_method="WatchJob", grpc_code=code)

    try:
        with grpc.insecure_channel(stack.address) as channel:
            watch, request = JobServiceStub(channel).WatchJob, job_pb2.WatchJobRequest(name=job.name)
            before = scrape()
            with pytest.raises(grpc.RpcError):
                list(watch(request, timeout=0.5))
            left = watch(request)
            next(left)
            left.cancel()
            within(10, lambda: ended("CANCELLED", scrape()) == ended("CANCELLED", before) + 1)
        assert ended("DEADLINE_EXCEEDED", scrape()) == ended("DEADLINE_EXCEEDED", before) + 1
    finally:
        client.cancel(job.name)
        client.wait(job)


def test_server_opens_no_metrics_port_by_default(start: Start) -> None:
    server = start()
    assert len([one for one in psutil.Process(server.pid).net_connections() if one.status == "LISTEN"]) == 1
    server.terminate()
    assert server.wait(30) == 0


def test_metrics_server_ends_with_the_server(start: Start) -> None:
    address = f"127.0.0.1:{free_port()}"
    server = start(BLEMISH_METRICS_LISTEN=address)
    now = Scrape(address)
    assert now.sum("blemish_dependency_up") == 0
    assert "blemish_workers" not in now.names, "Redis is away"
    began = time.monotonic()
    server.terminate()
    assert server.wait(30) == 0
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("listen", "words"),
    [("taken", "choose another with BLEMISH_METRICS_LISTEN"), ("nowhere", "BLEMISH_METRICS_LISTEN")],
)
def test_unusable_metrics_address_is_reported(stack: RunningStack, listen: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "blemish_server"],
        env=os.environ
        | {
            "BLEMISH_LISTEN": "127.0.0.1:0",
            "BLEMISH_METRICS_LISTEN": stack.metrics if listen == "taken" else listen,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
