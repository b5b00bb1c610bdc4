# SPDX-License-Identifier: Apache-2.0
"""The most likely defect class of anomalous images, on the real stack and without a Qdrant that answers."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.integration.conftest import RunningStack, Start
from tritonclient import grpc as triton

from blemish.v1 import inspection_pb2 as pb
from blemish.v1 import search_pb2
from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL
from blemish_client import Client, FrameResult
from blemish_core.platform.names import ModelRef

NAMES = ("Riß [a/b] 'n", "dent")


def of_verdict(client: Client, stack: RunningStack, verdict: int) -> bytes:
    """Return an indexed image of the dataset whose verdict it is."""
    # Other tests may have kept frames, which have no path.
    item = next(item for item in client.items("tile") if item.path and item.verdict == verdict)
    return (stack.surfaces / "tile" / item.path).read_bytes()


@pytest.fixture
def defect(client: Client, stack: RunningStack, tile_model: str) -> bytes:
    return of_verdict(client, stack, VERDICT_ANOMALOUS)


@pytest.fixture
def defects(client: Client, tile_model: str) -> Iterator[list[str]]:
    """Return the items of all defective images of the dataset, whose labels are removed at the end."""
    items = [item.item for item in client.items("tile", where="-class = good") if item.path]
    yield items
    for item in items:
        client.label(item, "tile", search_pb2.LABEL_NONE)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return a port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_confirmed_items_name_the_next_defect_in_every_kind_of_call(
    client: Client, stack: RunningStack, defect: bytes, defects: list[str]
) -> None:
    def named(consensus: pb.Consensus.ValueType, name: str = "") -> pb.DefectClass:
        """Return the class once it is as expected, which takes less than a second on an idle machine."""
        give_up_s = time.monotonic() + 10
        while True:
            found = client.score(defect, "tile", defect_class=True).defect_class
            if (found.consensus, found.class_name) == (consensus, name) or time.monotonic() > give_up_s:
                return found

    assert named(pb.CONSENSUS_TOO_FEW_LABELS).consensus == pb.CONSENSUS_TOO_FEW_LABELS
    for name in NAMES:
        for item in defects:
            client.label(item, "tile", search_pb2.LABEL_CONFIRMED, name)
        assert named(pb.CONSENSUS_UNANIMOUS, name) == pb.DefectClass(
            class_name=name, share=1.0, neighbors=7, consensus=pb.CONSENSUS_UNANIMOUS
        )
    assert not client.score(defect, "tile").HasField("defect_class")
    good = of_verdict(client, stack, VERDICT_NORMAL)
    assert not client.score(good, "tile", defect_class=True).HasField("defect_class")

    names = []
    for result in client.stream([good, defect], "tile", defect_class=True, policy=pb.STREAM_POLICY_BLOCK):
        assert isinstance(result, FrameResult)
        names.append(result.answer.inspection.defect_class.class_name)
    assert names == ["", NAMES[-1]]

    with triton.InferenceServerClient(stack.address) as other:
        tensor = triton.InferInput("image", [2], "BYTES")
        tensor.set_data_from_numpy(np.array([defect, good], dtype=np.object_))
        asked = [triton.InferRequestedOutput(name) for name in ("defect_class", "defect_class_share")]
        answer = other.infer("tile", [tensor], outputs=asked)
    assert answer.as_numpy("defect_class").tolist() == [NAMES[-1].encode(), b""]
    assert answer.as_numpy("defect_class_share").tolist() == [1.0, 0.0]

    client.label(defects[0], "tile", search_pb2.LABEL_FALSE_ALARM)
    for item in defects[1:]:
        client.label(item, "tile", search_pb2.LABEL_NONE)
    assert named(pb.CONSENSUS_TOO_FEW_LABELS).consensus == pb.CONSENSUS_TOO_FEW_LABELS


def test_qdrant_that_never_answers_delays_no_verdict(
    start: Start, address: str, tile_model: str, defect: bytes, silent_port: int
) -> None:
    start(QDRANT_URL=f"http://127.0.0.1:{silent_port}", QDRANT_GRPC_PORT=str(silent_port))
    version = ModelRef.parse(tile_model)
    with Client(address) as client:
        client.score(defect, str(version))  # loads the model

        def seconds(*, defect_class: bool) -> float:
            """Return the time of ten calls."""
            began_s = time.monotonic()
            for _ in range(10):
                answer = client.score(defect, str(version), defect_class=defect_class)
                assert answer.verdict == VERDICT_ANOMALOUS
                if defect_class:
                    assert answer.defect_class.consensus == pb.CONSENSUS_UNAVAILABLE
            return time.monotonic() - began_s

        without = seconds(defect_class=False)
        # A call may wait once for the first read; twice the usual time allows for a busy machine.
        assert seconds(defect_class=True) < 2 * without + 0.5
        results = client.stream([defect] * 5, str(version), defect_class=True)
        consensus = [
            result.answer.inspection.defect_class.consensus
            for result in results
            if isinstance(result, FrameResult) and result.answer.HasField("inspection")
        ]
        assert set(consensus) == {pb.CONSENSUS_UNAVAILABLE}


def test_server_without_qdrant_answers_without_a_class(
    start: Start, address: str, tile_model: str, defect: bytes, tmp_path: Path
) -> None:
    start()
    with Client(address) as client:
        answer = client.score(defect, tile_model, defect_class=True)
        assert answer.verdict == VERDICT_ANOMALOUS
        assert answer.defect_class == pb.DefectClass(consensus=pb.CONSENSUS_UNAVAILABLE)
