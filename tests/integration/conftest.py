# SPDX-License-Identifier: Apache-2.0
"""The real stack: Redis, Qdrant, a worker, the server."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from tests.support.ports import free_port
from tests.support.processes import wait_for_port
from tests.support.running_stack import RunningStack as RunningStack
from tests.support.running_stack import running_stack as running_stack

from blemish_client import Client
from blemish_client.demo.surfaces import generate


@pytest.fixture(scope="session")
def surfaces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("surfaces")
    for category in ("tile", "grid"):
        generate(folder / category, category, seed=7, train=24, good=6, defective=8, size=128)
    return folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, surfaces: Path) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("stack"), surfaces) as running:
        yield running


@pytest.fixture
def stack_address(stack: RunningStack) -> str:
    return stack.address


@pytest.fixture
def stack_data(stack: RunningStack) -> Path:
    return stack.data


@pytest.fixture
def client(stack: RunningStack) -> Iterator[Client]:
    with Client(stack.address) as connected:
        yield connected


@pytest.fixture(scope="session")
def tile_model(stack: RunningStack) -> str:
    return trained_tile(stack)


def trained_tile(stack: RunningStack) -> str:
    """Train a version on the small tile dataset, index its test images, and return its name."""
    with Client(stack.address) as client:
        client.import_dataset("tile", str(stack.surfaces / "tile"))
        trained = client.wait(client.train("tile", model_id="tile", promote=True))
        assert trained.error == ""
        version = trained.result.model_version
        indexed = client.wait(client.embed(version, "tile"))
        assert indexed.error == ""
        assert indexed.result.indexed_images == 14
        return version


class Start(Protocol):
    """Starts further servers on the stack's store, which tests may kill."""

    def __call__(self, **settings: str) -> "subprocess.Popen[bytes]": ...


@pytest.fixture
def address() -> str:
    """HOST:PORT of the started server."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def launch(address: str, stack: RunningStack) -> Iterator[Start]:
    """Start a server without waiting for its first answer."""
    running: list[subprocess.Popen[bytes]] = []

    def launched(**settings: str) -> "subprocess.Popen[bytes]":
        server = subprocess.Popen(
            [sys.executable, "-m", "blemish_server"],
            env=os.environ
            | {
                "BLEMISH_LISTEN": address,
                "BLEMISH_STORE": str(stack.data / "store"),
                "REDIS_URL": "redis://127.0.0.1:1/0",  # scoring needs neither
                "QDRANT_URL": "http://127.0.0.1:1",
                "BLEMISH_PRELOAD": "false",
            }
            | settings,
            stdout=subprocess.DEVNULL,
        )
        running.append(server)
        return server

    yield launched
    for server in running:
        server.kill()
        server.wait(30)


@pytest.fixture
def start(address: str, launch: Start) -> Start:
    def started(**settings: str) -> "subprocess.Popen[bytes]":
        server = launch(**settings)
        # Not through the client, whose pauses between attempts grow to seconds.
        wait_for_port(address, server)
        with Client(address) as client:
            client.server_info()
        return server

    return started
