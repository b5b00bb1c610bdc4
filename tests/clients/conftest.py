# SPDX-License-Identifier: Apache-2.0
"""A fake server and a client of it."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.fake_server import FakeServer, serve

from blemish_client import Client, RetryPolicy


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


@pytest.fixture
def target(fake: FakeServer) -> Iterator[str]:
    """Yield the address of the fake server."""
    # The temporary folder of pytest can be too long for the name of a socket.
    folder = Path(tempfile.mkdtemp(prefix="blemish-"))
    address = f"unix:{folder / 'fake.sock'}"
    server = serve(fake, address)
    yield address
    server.stop(None).wait()
    shutil.rmtree(folder)


@pytest.fixture
def client(target: str) -> Iterator[Client]:
    policy = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.02, call_s=0.5, watch_s=0.5)
    with Client(target, timeout_s=5, retry_policy=policy) as client:
        yield client
