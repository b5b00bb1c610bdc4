# SPDX-License-Identifier: Apache-2.0
"""The embedded Qdrant as a process: durability, signals, and the lock of its directory."""

import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from qdrant_client import QdrantClient
from qdrant_client import models as qm

if TYPE_CHECKING:
    from tests.contract.conftest import EmbeddedQdrant, StartQdrant

SIZE, BATCH = 64, 25


def create(client: QdrantClient, name: str = "c") -> None:
    client.create_collection(name, vectors_config=qm.VectorParams(size=SIZE, distance=qm.Distance.DOT))


def write(client: QdrantClient, batch: int) -> None:
    ids = range(batch * BATCH, (batch + 1) * BATCH)
    points = [qm.PointStruct(id=id, vector=[float(id)] * SIZE, payload={"id": id}) for id in ids]
    client.upsert("c", points)


def stored(client: QdrantClient) -> dict[object, object]:
    """Check each point's vector and return the payloads by id."""
    points = client.scroll("c", limit=100_000, with_payload=True, with_vectors=True)[0]
    assert all(point.vector == [float(str(point.id))] * SIZE for point in points)
    return {point.id: point.payload for point in points}


class Writer(threading.Thread):
    """A thread that writes batches from ``begin`` on until the server is gone."""

    def __init__(self, server: "EmbeddedQdrant", begin: int) -> None:
        super().__init__()
        self.acknowledged = begin
        self.reached = threading.Event()
        self._goal = begin + 40
        self._server = server

    def run(self) -> None:
        client = QdrantClient(**self._server.client_options())
        try:
            while True:
                write(client, self.acknowledged)
                self.acknowledged += 1
                if self.acknowledged == self._goal:
                    self.reached.set()
        except grpc.RpcError:
            client.close()


def test_acknowledged_writes_survive_kill_during_writes(
    tmp_path: Path, start_qdrant: "StartQdrant"
) -> None:
    acknowledged = 0
    for life in range(3):
        server = start_qdrant(tmp_path)
        client = QdrantClient(**server.client_options())
        if life == 0:
            create(client)
            alias = qm.CreateAlias(collection_name="c", alias_name="kept")
            client.update_collection_aliases([qm.CreateAliasOperation(create_alias=alias)])
        points = stored(client)
        expected = {id: {"id": id} for id in range(acknowledged * BATCH)}
        assert expected.items() <= points.items()
        # A batch that was not acknowledged is stored completely or not at all.
        assert len(points) in (len(expected), len(expected) + BATCH)
        assert client.count("kept").count == len(points)
        client.close()
        writer = Writer(server, acknowledged)
        writer.start()
        assert writer.reached.wait(30)
        server.stop(signal.SIGKILL)
        writer.join(30)
        assert not writer.is_alive()
        acknowledged = writer.acknowledged
    assert acknowledged >= 3 * 40


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_process_without_loss(
    tmp_path: Path, start_qdrant: "StartQdrant", number: int
) -> None:
    server = start_qdrant(tmp_path)
    client = QdrantClient(**server.client_options())
    create(client)
    create(client, "dropped")
    write(client, 0)
    client.delete_collection("dropped")
    client.close()
    assert server.stop(number) == 0
    server = start_qdrant(tmp_path)
    client = QdrantClient(**server.client_options())
    assert len(stored(client)) == BATCH
    assert [each.name for each in client.get_collections().collections] == ["c"]
    client.close()


def test_failed_flush_at_the_end_sets_the_exit_code(tmp_path: Path, start_qdrant: "StartQdrant") -> None:
    server = start_qdrant(tmp_path)
    client = QdrantClient(**server.client_options())
    create(client)
    write(client, 0)
    client.close()
    shutil.rmtree(tmp_path / "collections" / "c" / "shard")
    assert server.stop(signal.SIGTERM) == 1


def test_second_process_on_a_directory_exits_and_damages_nothing(
    tmp_path: Path, start_qdrant: "StartQdrant", qdrant_command: Callable[..., list[str]]
) -> None:
    server = start_qdrant(tmp_path)
    client = QdrantClient(**server.client_options())
    create(client)
    write(client, 0)
    second = subprocess.run(qdrant_command(tmp_path), capture_output=True, text=True, check=False)
    assert (second.returncode, second.stdout) == (2, "")
    (sentence,) = second.stderr.splitlines()
    assert str(tmp_path) in sentence
    assert f"kill {server.process.pid}" in sentence
    assert "--dir" in sentence
    write(client, 1)
    client.close()
    # The flush at the end fails if another process has touched the files.
    assert server.stop(signal.SIGTERM) == 0


def test_taken_port_is_rejected(tmp_path: Path, qdrant_command: Callable[..., list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = qdrant_command(tmp_path, f"127.0.0.1:{port}")
        rejected = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (rejected.returncode, rejected.stdout) == (2, "")
    (sentence,) = rejected.stderr.splitlines()
    assert f"port {port} is taken" in sentence
    assert "--listen" in sentence


def test_invalid_address_is_rejected(tmp_path: Path, qdrant_command: Callable[..., list[str]]) -> None:
    command = qdrant_command(tmp_path, "nowhere")
    rejected = subprocess.run(command, capture_output=True, text=True, check=False)
    assert rejected.returncode == 2
    assert "HOST:PORT" in rejected.stderr
