# SPDX-License-Identifier: Apache-2.0
"""The cost of a training, known before it starts, on a stack that measures its speed."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.conftest import RunningStack, running_stack
from typer.testing import CliRunner

from blemish.v1.job_pb2 import JOB_STATE_SUCCEEDED, PatchCore, TrainingEstimate
from blemish_client import Client
from blemish_client.cli.app import app
from blemish_client.errors import InvalidArgument, NotFound

MEASURED_WITHIN_S = 300.0


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, surfaces: Path) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("measured")
    with running_stack(folder, surfaces, BLEMISH_MEASURE_RATES="true") as running:
        yield running


def wait_for_estimate(client: Client, dataset: str) -> TrainingEstimate:
    """Return the estimate of a training once the worker has measured its speed."""
    deadline = time.monotonic() + MEASURED_WITHIN_S
    while True:
        answer = client.estimate_training(dataset)
        if answer.HasField("estimate"):
            return answer.estimate
        assert "no worker" in answer.reason
        assert time.monotonic() < deadline, answer.reason
        time.sleep(1)


@pytest.mark.timeout(600)
def test_cost_of_a_training_is_known_before_it_starts(measured: RunningStack) -> None:
    with Client(measured.address) as client:
        client.import_dataset("tile", str(measured.surfaces / "tile"))
        found = wait_for_estimate(client, "tile")
        assert not list(client.jobs())
        (worker,) = client.workers()
        assert (found.worker, found.device) == (worker.name, "cpu")
        assert (found.frame_width, found.frame_height) == (128, 128)
        assert (found.input_width, found.input_height) == (256, 256)
        assert found.frame.ToNanoseconds() > 0

        job = client.wait(client.train("tile"))
        assert job.state == JOB_STATE_SUCCEEDED
        version = client.model(job.result.model_version)
        assert version.training["bank"] == f"{found.bank_entries} of 24576 patches"
        took_s = job.end_time.ToDatetime() - job.start_time.ToDatetime()
        latency = {each.runtime: each for each in version.latencies}["openvino"]
        print(
            f"training: {found.training.ToTimedelta()} estimated, {took_s} measured; frame: "
            f"{found.frame.ToMicroseconds() / 1000:.0f} ms estimated, "
            f"{latency.median.ToMicroseconds() / 1000:.0f} ms measured"
        )

        again = client.estimate_training("tile").estimate  # with the publication of the first job
        print(f"the same training again: {again.training.ToTimedelta()} estimated")
        fewer = client.estimate_training("tile", detector=PatchCore(max_entries=100)).estimate
        assert fewer.bank_entries == 100
        assert fewer.training.ToNanoseconds() < again.training.ToNanoseconds()
        other = client.estimate_training("tile", detector=PatchCore(backbone="efficientnet_lite0"))
        assert not other.HasField("estimate")
        assert "only with efficientnet_lite2" in other.reason

        printed = CliRunner().invoke(
            app, ["--server", measured.address, "train", "tile", "--detach"], catch_exceptions=False
        )
        assert printed.exit_code == 0
        assert f"on {worker.name}: images" in printed.stderr
        client.cancel(printed.stdout.strip())


def test_training_that_would_be_refused_has_no_estimate(client: Client, tile_model: str) -> None:
    with pytest.raises(NotFound, match="datasets/absent"):
        client.estimate_training("absent")
    with pytest.raises(InvalidArgument, match="max_entries"):
        client.estimate_training("tile", detector=PatchCore(max_entries=2_000_000))


def test_worker_that_does_not_measure_gives_no_estimate(client: Client, tile_model: str) -> None:
    answer = client.estimate_training("tile")
    assert not answer.HasField("estimate")
    assert "no worker has measured its speed yet" in answer.reason
