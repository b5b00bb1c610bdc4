# SPDX-License-Identifier: Apache-2.0
"""The embedded Qdrant as a process, and the client's in-memory Qdrant to compare it with."""

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
    """A running process and its address."""

    process: subprocess.Popen[str]
    host: str
    port: int

    def client_options(self) -> dict[str, Any]:
        """Return the options of a client. The process has no REST API, so the URL's port is unused."""
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
    """Return a function that starts an embedded Qdrant on a directory; kill the processes at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(directory: Path) -> EmbeddedQdrant:
        process = subprocess.Popen(command(directory), stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        # Otherwise a process that hangs would block the test.
        watchdog = threading.Timer(START_WITHIN_S, process.kill)
        watchdog.start()
        line = process.stdout.readline()
        watchdog.cancel()
        text, _, address = line.strip().rpartition(" ")
        assert text == "listening on", f"the first line is {line!r}"
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
    """Return a client of an embedded Qdrant without collections."""
    client = QdrantClient(**embedded_qdrant.client_options())
    for collection in client.get_collections().collections:
        client.delete_collection(collection.name)
    yield client
    client.close()


@pytest.fixture(scope="module", params=["embedded", "QDRANT_URL"])
def qdrant(request: pytest.FixtureRequest) -> Iterator[QdrantClient]:
    """Return a client of the embedded Qdrant, then of the server at QDRANT_URL if it is set."""
    if request.param == "embedded":
        client = QdrantClient(**request.getfixturevalue("embedded_qdrant").client_options())
    elif url := os.environ.get("QDRANT_URL"):
        port = int(os.environ.get("QDRANT_GRPC_PORT", "6334"))
        key = os.environ.get("QDRANT_API_KEY")
        client = QdrantClient(
            url, grpc_port=port, api_key=key, prefer_grpc=True, check_compatibility=False, timeout=30
        )
    else:
        pytest.skip("no Qdrant server: set QDRANT_URL, and QDRANT_GRPC_PORT unless it is 6334")
    yield client
    client.close()


@pytest.fixture
def name(qdrant: QdrantClient) -> Iterator[str]:
    """Return the name of a collection to create; remove the collection at the end."""
    free = f"blemish-test-{uuid4().hex}"
    yield free
    qdrant.delete_collection(free)


@pytest.fixture
def pair(qdrant: QdrantClient) -> Iterator["QdrantPair"]:
    """Return the tested Qdrant and the in-memory one."""
    pair = QdrantPair(qdrant)
    yield pair
    pair.memory.close()


class QdrantPair:
    """A tested Qdrant and the client's in-memory one, which must agree."""

    def __init__(self, tested: QdrantClient) -> None:
        self.tested = tested
        self.memory = QdrantClient(":memory:")

    def do(self, call: Call) -> None:
        """Make the same call to both."""
        call(self.tested)
        call(self.memory)

    def rank_alike(self, call: Call) -> list[Any]:
        """Return the hits, or groups, of both; hits with equal scores may differ in order."""
        ours, theirs = comparable(call(self.tested)), comparable(call(self.memory))
        assert_same_ranking(ours, theirs)
        return list(ours)

    def same(self, call: Call) -> Any:
        """Return the result that both agree on."""
        ours, theirs = comparable(call(self.tested)), comparable(call(self.memory))
        assert ours == nearly(theirs)
        return ours

    def both_reject(self, code: grpc.StatusCode, call: Call) -> str:
        """Return the tested Qdrant's error for a call that both reject."""
        with pytest.raises((ValueError, KeyError)):
            call(self.memory)
        return self.tested_rejects(code, call)

    def tested_rejects(self, code: grpc.StatusCode, call: Call) -> str:
        """Return the tested Qdrant's error for a call that the in-memory one may accept."""
        with pytest.raises(grpc.RpcError) as caught:
            call(self.tested)
        error: Any = caught.value
        assert error.code() is code, error.details()
        return str(error.details())


@pytest.fixture
def empty_pair(embedded: QdrantClient) -> Iterator[QdrantPair]:
    """Return the embedded Qdrant and the in-memory one, without collections."""
    pair = QdrantPair(embedded)
    yield pair
    pair.memory.close()


def assert_same_ranking(ours: list[Any], theirs: list[Any]) -> None:
    """Compare hits, or groups of hits, except for the order of equal scores."""
    scores = [[score(each) for each in ranked] for ranked in (ours, theirs)]
    assert scores[0] == close(scores[1])
    known = {each[0]: each for each in theirs}
    for one in ours:
        # The last hit may be another one with the same score.
        if one[0] not in known and score(one) == close(scores[1][-1]):
            continue
        other = known[one[0]]
        assert score(one) == close(score(other))
        if isinstance(one[1], list):
            assert_same_ranking(one[1], other[1])
        else:
            assert one[2:] == nearly(other[2:])


def score(item: Any) -> float:
    """Return the score of a hit, or of the best hit of a group."""
    found: float = score(item[1][0]) if isinstance(item[1], list) else item[1]
    return found


def close(expected: Any) -> Any:
    """Return a value that equals 32-bit floats which were summed in another order."""
    return pytest.approx(expected, rel=1e-6, abs=1e-5)


def comparable(answer: Any) -> Any:
    """Return the parts of a result that both share as plain values; versions of points differ."""
    match answer:
        case QueryResponse():
            return comparable(answer.points)
        case GroupsResult():
            return [[group.id, comparable(group.hits)] for group in answer.groups]
        # gRPC does not distinguish an empty payload from a missing one.
        case qm.ScoredPoint():
            return [answer.id, answer.score, answer.payload or None, answer.vector]
        case qm.Record():
            return [answer.id, answer.order_value, answer.payload or None, answer.vector]
        case list() | tuple():
            return [comparable(each) for each in answer]
    return answer


def nearly(plain: Any) -> Any:
    """Return a value that equals ``plain`` except for the last digits of 32-bit floats."""
    match plain:
        case float():
            return pytest.approx(plain, rel=1e-5, abs=1e-6)
        case list():
            return [nearly(each) for each in plain]
        case dict():
            return {key: nearly(value) for key, value in plain.items()}
    return plain
