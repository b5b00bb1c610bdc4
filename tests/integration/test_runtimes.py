# SPDX-License-Identifier: Apache-2.0
"""One bundle, two servers: OpenVINO and torch give the same answers within the tolerance on its card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish.v1.inspection_pb2 import Inspection
from blemish_client import Client
from blemish_client.errors import FailedPrecondition

if TYPE_CHECKING:
    from tests.integration.conftest import Start


def scored(client: Client, image: bytes, model: str) -> Inspection:
    return client.score(image, model, anomaly_map=True, embedding=True)


def pixels(inspection: Inspection) -> np.typing.NDArray[np.float32]:
    return np.frombuffer(inspection.anomaly_map.values, "<f4")


def test_openvino_and_torch_give_the_same_scores(
    client: Client, start: Start, address: str, surfaces: Path, tile_model: str
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
    start(BLEMISH_RUNTIME="torch")
    with Client(address) as another:
        ours = [scored(another, image, tile_model) for image in images]
    assert {inspection.runtime for inspection in ours} == {"torch"}
    scale = float(np.ptp(np.concatenate([pixels(inspection) for inspection in ours])))
    for one, other in zip(ours, its, strict=True):
        assert abs(other.score - one.score) <= card.parity.tolerance * scale
        assert np.abs(pixels(other) - pixels(one)).max() <= card.parity.tolerance * scale
        assert np.linalg.norm(np.subtract(other.embedding, one.embedding)) <= card.parity.tolerance


def test_runtime_missing_from_a_version_is_refused_with_the_remedy(
    start: Start, address: str, surfaces: Path, tile_model: str
) -> None:
    image = (surfaces / "tile" / "test" / "good" / "000.png").read_bytes()
    start(BLEMISH_RUNTIME="openvino-int8")
    with Client(address) as another, pytest.raises(FailedPrecondition, match="set BLEMISH_RUNTIME=auto"):
        scored(another, image, tile_model)
