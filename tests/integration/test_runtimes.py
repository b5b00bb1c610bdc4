# SPDX-License-Identifier: Apache-2.0
"""One bundle, two servers: OpenVINO and torch give the same answers within the tolerance on its card."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from blemish.v1.inspection_pb2 import Inspection
from blemish_client import Client
from blemish_client.errors import FailedPrecondition, Unavailable
from blemish_client.patience import Patience


def scored(client: Client, image: bytes, model: str) -> Inspection:
    return client.score(image, model, anomaly_map=True, embedding=True)


def asked_of_another(
    runtime: str, address: str, data: Path, images: list[bytes], model: str
) -> list[Inspection]:
    """Score with a server of its own on the same store, set to ``runtime``."""
    server = subprocess.Popen(
        [sys.executable, "-m", "blemish_server"],
        env=os.environ
        | {
            "BLEMISH_LISTEN": address,
            "BLEMISH_STORE": str(data / "store"),
            "BLEMISH_RUNTIME": runtime,
            "REDIS_URL": "redis://127.0.0.1:1/0",  # scoring needs neither
            "QDRANT_URL": "http://127.0.0.1:1",
        },
        stdout=subprocess.DEVNULL,
    )
    try:
        with Client(address, patience=Patience(first_pause_s=0.1, call_s=10)) as client:
            give_up = time.monotonic() + 60
            while True:
                try:
                    client.server_info()
                    break
                except Unavailable:
                    assert time.monotonic() < give_up, "it did not start"
                    assert server.poll() is None, "it ended"
            return [scored(client, image, model) for image in images]
    finally:
        server.terminate()
        server.wait(30)


def pixels(inspection: Inspection) -> "np.typing.NDArray[np.float32]":
    return np.frombuffer(inspection.anomaly_map.values, "<f4")


def test_openvino_and_torch_answer_alike(
    client: Client,
    stack_data: Path,
    surfaces: Path,
    tile_model: str,
    free_port: Callable[[], int],
) -> None:
    (card,) = (runtime for runtime in client.model(tile_model).runtimes if runtime.name == "openvino")
    assert card.published
    assert 0 < card.parity.anomaly_map <= card.parity.tolerance
    files = sorted((surfaces / "tile" / "test").glob("*/000.png"))
    assert len(files) > 1
    images = [file.read_bytes() for file in files]
    its = [scored(client, image, tile_model) for image in images]
    assert {inspection.runtime for inspection in its} == {"openvino"}
    assert client.server_info().runtimes[tile_model] == "openvino"
    ours = asked_of_another("torch", f"127.0.0.1:{free_port()}", stack_data, images, tile_model)
    assert {inspection.runtime for inspection in ours} == {"torch"}
    scale = float(np.ptp(np.concatenate([pixels(inspection) for inspection in ours])))
    for one, other in zip(ours, its, strict=True):
        assert abs(other.score - one.score) <= card.parity.tolerance * scale
        assert np.abs(pixels(other) - pixels(one)).max() <= card.parity.tolerance * scale
        assert np.linalg.norm(np.subtract(other.embedding, one.embedding)) <= card.parity.tolerance


def test_a_runtime_that_the_version_lacks_is_refused_with_the_cure(
    stack_data: Path, surfaces: Path, tile_model: str, free_port: Callable[[], int]
) -> None:
    image = (surfaces / "tile" / "test" / "good" / "000.png").read_bytes()
    try:
        asked_of_another("openvino-int8", f"127.0.0.1:{free_port()}", stack_data, [image], tile_model)
    except FailedPrecondition as refusal:
        assert "set BLEMISH_RUNTIME=auto" in str(refusal)
    else:
        raise AssertionError("it was served")
