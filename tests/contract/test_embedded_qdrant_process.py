# SPDX-License-Identifier: Apache-2.0
"""The embedded Qdrant as a process: what it acknowledged it keeps, and who else may come near."""

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
    """Return each point's payload, having seen that its vector is its own."""
    points = client.scroll("c", limit=100_000, with_payload=True, with_vectors=True)[0]
    assert all(point.vector == [float(str(point.id))] * SIZE for point in points)
    return {point.id: point.payload for point in points}


class Writer(threading.Thread):
    """Writes batches from ``begin`` on until the server is gone."""

    def __init__(self, server: "EmbeddedQdrant", begin: int) -> None:
        super().__init__()
        self.acknowledged = begin
        self.reached = threading.Event()
        self._goal = begin + 40
        self._server = server

    def run(self) -> None:
        client = QdrantClient(**self._server.to_connect())
        try:
            while True:
                write(client, self.acknowledged)
                self.acknowledged += 1
                if self.acknowledged == self._goal:
                    self.reached.set()
        except grpc.RpcError:
            client.close()


def test_what_was_acknowledged_survives_being_killed_while_writing(
    tmp_path: Path, start_qdrant: "StartQdrant"
) -> None:
    acknowledged = 0
    for life in range(3):
        server = start_qdrant(tmp_path)
        client = QdrantClient(**server.to_connect())
        if life == 0:
            create(client)
            alias = qm.CreateAlias(collection_name="c", alias_name="kept")
            client.update_collection_aliases([qm.CreateAliasOperation(create_alias=alias)])
        points = stored(client)
        expected = {id: {"id": id} for id in range(acknowledged * BATCH)}
        assert expected.items() <= points.items()
        # A batch that was not acknowledged is there whole or not at all.
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
def test_a_signal_stops_it_and_nothing_is_lost(
    tmp_path: Path, start_qdrant: "StartQdrant", number: int
) -> None:
    server = start_qdrant(tmp_path)
    client = QdrantClient(**server.to_connect())
    create(client)
    create(client, "dropped")
    write(client, 0)
    client.delete_collection("dropped")
    client.close()
    assert server.stop(number) == 0
    server = start_qdrant(tmp_path)
    client = QdrantClient(**server.to_connect())
    assert len(stored(client)) == BATCH
    assert [each.name for each in client.get_collections().collections] == ["c"]
    client.close()


def test_an_end_that_could_not_flush_is_told_by_the_exit_code(
    tmp_path: Path, start_qdrant: "StartQdrant"
) -> None:
    server = start_qdrant(tmp_path)
    client = QdrantClient(**server.to_connect())
    create(client)
    write(client, 0)
    client.close()
    shutil.rmtree(tmp_path / "collections" / "c" / "shard")
    assert server.stop(signal.SIGTERM) == 1


def test_a_second_process_is_refused_the_directory_and_harms_nothing(
    tmp_path: Path, start_qdrant: "StartQdrant", qdrant_command: Callable[..., list[str]]
) -> None:
    server = start_qdrant(tmp_path)
    client = QdrantClient(**server.to_connect())
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
    # Stopping flushes, which fails where another process has touched the files.
    assert server.stop(signal.SIGTERM) == 0


def test_a_taken_port_is_refused(tmp_path: Path, qdrant_command: Callable[..., list[str]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = qdrant_command(tmp_path, f"127.0.0.1:{port}")
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (2, "")
    (sentence,) = refused.stderr.splitlines()
    assert f"port {port} is taken" in sentence
    assert "--listen" in sentence


def test_what_is_no_address_is_refused(tmp_path: Path, qdrant_command: Callable[..., list[str]]) -> None:
    command = qdrant_command(tmp_path, "nowhere")
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "HOST:PORT" in refused.stderr
