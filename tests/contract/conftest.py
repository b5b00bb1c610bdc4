# SPDX-License-Identifier: Apache-2.0
"""The embedded Qdrant as a process of its own, clients for it, and the client's own to compare with."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import pytest
from qdrant_client import QdrantClient
from qdrant_client import models as qm
from qdrant_client.conversions.common_types import GroupsResult, QueryResponse

START_WITHIN_S = 30

Call = Callable[[QdrantClient], Any]


@dataclass
class EmbeddedQdrant:
    """A running process and where it listens."""

    process: subprocess.Popen[str]
    host: str
    port: int

    def to_connect(self) -> dict[str, Any]:
        """Return what a client needs. Nothing speaks REST there, so the URL leads nowhere."""
        return {
            "url": f"http://{self.host}:1",
            "grpc_port": self.port,
            "prefer_grpc": True,
            "check_compatibility": False,
            "timeout": 30,
        }

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(START_WITHIN_S)


StartQdrant = Callable[[Path], EmbeddedQdrant]


def command(directory: Path, listen: str = "127.0.0.1:0") -> list[str]:
    module = [sys.executable, "-P", "-m", "blemish_local.qdrant"]
    return [*module, "--dir", str(directory), "--listen", listen]


@pytest.fixture(scope="session")
def qdrant_command() -> Callable[..., list[str]]:
    return command


@pytest.fixture(scope="module")
def start_qdrant() -> Iterator[StartQdrant]:
    """A function that starts an embedded Qdrant on a directory; what still runs is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(directory: Path) -> EmbeddedQdrant:
        process = subprocess.Popen(command(directory), stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        # A process that hangs would otherwise hold the test for ever.
        watchdog = threading.Timer(START_WITHIN_S, process.kill)
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        said, _, address = line.strip().rpartition(" ")
        assert said == "listening on", f"it said {line!r} and not where it listens"
        host, _, port = address.rpartition(":")
        return EmbeddedQdrant(process, host, int(port))

    yield start
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="module")
def embedded_qdrant(start_qdrant: StartQdrant, tmp_path_factory: pytest.TempPathFactory) -> EmbeddedQdrant:
    return start_qdrant(tmp_path_factory.mktemp("qdrant"))


@pytest.fixture
def embedded(embedded_qdrant: EmbeddedQdrant) -> Iterator[QdrantClient]:
    """A client of the embedded Qdrant, which holds no collections."""
    client = QdrantClient(**embedded_qdrant.to_connect())
    for collection in client.get_collections().collections:
        client.delete_collection(collection.name)
    yield client
    client.close()


@pytest.fixture(scope="module", params=["embedded", "QDRANT_URL"])
def qdrant(request: pytest.FixtureRequest) -> Iterator[QdrantClient]:
    """A client of the embedded Qdrant, then of the real one where there is one."""
    if request.param == "embedded":
        client = QdrantClient(**request.getfixturevalue("embedded_qdrant").to_connect())
    elif url := os.environ.get("QDRANT_URL"):
        port = int(os.environ.get("QDRANT_GRPC_PORT", "6334"))
        key = os.environ.get("QDRANT_API_KEY")
        client = QdrantClient(
            url, grpc_port=port, api_key=key, prefer_grpc=True, check_compatibility=False, timeout=30
        )
    else:
        pytest.skip("no real Qdrant: set QDRANT_URL, and QDRANT_GRPC_PORT unless it is 6334")
    yield client
    client.close()


@pytest.fixture
def name(qdrant: QdrantClient) -> Iterator[str]:
    """The name of a collection to be made, which is removed afterwards."""
    free = f"blemish-test-{uuid4().hex}"
    yield free
    qdrant.delete_collection(free)


@pytest.fixture
def pair(qdrant: QdrantClient) -> Iterator["Both"]:
    """The Qdrant that is tested and the client's in-memory one."""
    pair = Both(qdrant)
    yield pair
    pair.memory.close()


class Both:
    """The embedded Qdrant and the client's in-memory one, which must agree."""

    def __init__(self, embedded: QdrantClient) -> None:
        self.embedded = embedded
        self.memory = QdrantClient(":memory:")

    def do(self, call: Call) -> None:
        """Have both do the same, whatever they answer."""
        call(self.embedded)
        call(self.memory)

    def rank_alike(self, call: Call, *, within: float = 1e-5) -> list[Any]:
        """Return the hits of both, best first, or the groups; equals may come in any order.

        Scores that differ by ``within`` are equal.
        """
        ours, theirs = comparable(call(self.embedded)), comparable(call(self.memory))
        alike(ours, theirs, within)
        return list(ours)

    def same(self, call: Call) -> Any:
        """Return what both answer."""
        ours, theirs = comparable(call(self.embedded)), comparable(call(self.memory))
        assert ours == nearly(theirs)
        return ours

    def refuse(self, code: grpc.StatusCode, call: Call) -> str:
        """Return the sentence with which the embedded one refuses what both refuse."""
        with pytest.raises((ValueError, KeyError)):
            call(self.memory)
        return self.refused(code, call)

    def refused(self, code: grpc.StatusCode, call: Call) -> str:
        """Return the sentence with which the embedded one refuses; the other takes more."""
        with pytest.raises(grpc.RpcError) as caught:
            call(self.embedded)
        error: Any = caught.value
        assert error.code() is code, error.details()
        return str(error.details())


@pytest.fixture
def both(embedded: QdrantClient) -> Iterator[Both]:
    """Both, without collections."""
    pair = Both(embedded)
    yield pair
    pair.memory.close()


def alike(ours: list[Any], theirs: list[Any], within: float) -> None:
    """Compare hits, or groups of them, but for the order of those whose scores are the same."""
    scores = [[score(each) for each in ranked] for ranked in (ours, theirs)]
    assert scores[0] == close(scores[1], within)
    known = {each[0]: each for each in theirs}
    for one in ours:
        # The last one may be another of those with its score.
        if one[0] not in known and score(one) == close(scores[1][-1], within):
            continue
        other = known[one[0]]
        assert score(one) == close(score(other), within)
        if isinstance(one[1], list):
            alike(one[1], other[1], within)
        else:
            assert one[2:] == nearly(other[2:])


def score(of: Any) -> float:
    """Return the score of a hit, or of the best one of a group."""
    found: float = score(of[1][0]) if isinstance(of[1], list) else of[1]
    return found


def close(expected: Any, within: float) -> Any:
    """Return what equals floats of 32 bits that were added up in another order."""
    return pytest.approx(expected, rel=1e-6, abs=within)


def comparable(answer: Any) -> Any:
    """Return what both answer alike, in plain values: not the versions of points."""
    match answer:
        case QueryResponse():
            return comparable(answer.points)
        case GroupsResult():
            return [[group.id, comparable(group.hits)] for group in answer.groups]
        # gRPC does not tell an empty payload from none.
        case qm.ScoredPoint():
            return [answer.id, answer.score, answer.payload or None, answer.vector]
        case qm.Record():
            return [answer.id, answer.order_value, answer.payload or None, answer.vector]
        case list() | tuple():
            return [comparable(each) for each in answer]
    return answer


def nearly(plain: Any) -> Any:
    """Return what equals ``plain`` but for the last digits of its floats, of 32 bits."""
    match plain:
        case float():
            return pytest.approx(plain, rel=1e-5, abs=1e-6)
        case list():
            return [nearly(each) for each in plain]
        case dict():
            return {key: nearly(value) for key, value in plain.items()}
    return plain
