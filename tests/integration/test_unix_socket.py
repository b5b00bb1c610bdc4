# SPDX-License-Identifier: Apache-2.0
"""A server on a unix socket: clients, permissions, files of dead servers, TLS and tokens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from tests.support.processes import READY_WITHIN_S, Process, running, wait_for_file, wait_for_text
from tests.support.redis_server import Authority

from blemish_client import AsyncClient, Client
from blemish_client.errors import Unavailable
from blemish_client.transport.credentials import Credentials
from blemish_server.auth import access
from blemish_server.auth.access import Role

if TYPE_CHECKING:
    from tests.integration.conftest import RunningStack

SERVER = (sys.executable, "-m", "blemish_server")


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder whose path is short enough for a socket."""
    with TemporaryDirectory(prefix="sock-", dir="/tmp") as created:
        yield Path(created)


def settings(stack: RunningStack, listen: str) -> dict[str, str]:
    return {
        "BLEMISH_LISTEN": listen,
        "BLEMISH_STORE": str(stack.data / "store"),
        "REDIS_URL": "redis://127.0.0.1:1/0",  # these tests need neither
        "QDRANT_URL": "http://127.0.0.1:1",
        "BLEMISH_PRELOAD": "false",
    }


async def test_clients_reach_a_server_on_a_unix_socket(
    stack: RunningStack, folder: Path, tile_model: str, surfaces: Path
) -> None:
    target = f"unix:{folder}/blemish.sock"
    image = (surfaces / "tile/test/good/000.png").read_bytes()
    environment = settings(stack, target) | {"BLEMISH_LISTEN_MODE": "660"}
    log = folder / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(SERVER, env=os.environ | environment, stdout=output, stderr=output) as server,
    ):
        try:
            wait_for_text(log, '"serving"', server)
            assert f'"address": "{target}"' in log.read_text()
            assert "authentication is disabled" not in log.read_text()
            assert (folder / "blemish.sock").stat().st_mode & 0o777 == 0o660
            with Client(target) as client:
                assert client.score(image, tile_model).score > 0
            async with AsyncClient(f"unix://{folder}/blemish.sock") as client:
                assert (await client.server_info()).version
            second = refused(environment)
            assert f"another process listens on {target}; stop it or choose another path" in second
            with Client(target) as client:
                assert client.server_info().version  # the second server did not take the socket
        finally:
            server.kill()
            server.wait()
    assert (folder / "blemish.sock").exists()  # a killed server leaves it behind
    with running(*SERVER, folder=None, **environment) as server, Client(target) as client:
        wait_for_answer(client, server)
    assert not (folder / "blemish.sock").exists()


def test_token_and_tls_work_over_a_unix_socket(stack: RunningStack, folder: Path) -> None:
    authority = Authority.create(folder / "authority")
    token = access.grant(folder / "callers.json", "line-1", Role.CAMERA)
    target = f"unix:{folder}/tls.sock"
    environment = settings(stack, target) | {
        "BLEMISH_ACCESS_FILE": str(folder / "callers.json"),
        "BLEMISH_TLS_CERTIFICATE": str(authority.chain),
        "BLEMISH_TLS_KEY": str(authority.key),
    }
    with (
        running(*SERVER, folder=None, **environment) as server,
        Client(target, credentials=Credentials(token, roots=authority.roots)) as client,
    ):
        wait_for_answer(client, server)
        assert client.server_info().caller == "line-1"


def wait_for_answer(client: Client, server: Process) -> None:
    """Wait until the server answers; it may take longer than the client retries."""
    give_up = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            assert client.server_info().version
            return
        except Unavailable:
            assert server.poll() is None
            assert time.monotonic() < give_up


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("unix-abstract:blemish", "is an abstract socket"),
        (f"unix:/tmp/{'l' * 120}", "sockets have at most 107"),
        ("unix:/no/such/folder/a.sock", "/no/such/folder"),
        ("unix:/dev/null", "is not a socket"),
    ],
)
@pytest.mark.parametrize("module", [["blemish_server"], ["blemish_local", "up"]])
def test_unusable_socket_is_refused_with_a_sentence(
    tmp_path: Path, listen: str, reason: str, module: list[str]
) -> None:
    environment = {"BLEMISH_LISTEN": listen, "REDIS_URL": "redis://127.0.0.1:1/0"}
    assert reason in refused(environment | {"BLEMISH_STORE": str(tmp_path)}, *module)


def refused(environment: dict[str, str], *module: str) -> str:
    """Return the error of a process that does not start."""
    done = subprocess.run(
        [sys.executable, "-m", *(module or ("blemish_server",))],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_stack_listens_on_a_unix_socket_and_prints_it_as_given(folder: Path) -> None:
    target = f"unix://{folder}/up.sock"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "blemish_local", "up", "--data", str(folder / "data")),
            "--no-console",
            *("--address-file", str(folder / "address")),
        ],
        env=os.environ | {"BLEMISH_LISTEN": target},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert wait_for_file(folder / "address", process) == target
        shown = subprocess.run(
            [sys.executable, "-m", "blemish_client.cli", "--server", target, "info"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert target in shown.stdout
        assert (folder / "up.sock").stat().st_mode & 0o777 == 0o600
    finally:
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=60)
    assert f"blemish is up at {target}\n" in printed
    assert process.returncode == 0
