# SPDX-License-Identifier: Apache-2.0
"""Every RPC with random, boundary and mutated messages, wrong orders and cancelled calls.

``python -m tests.fuzz.rpcs`` makes many more of these calls.
"""

import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from tests.fuzz.messages import Pool
from tests.fuzz.rpcs import Driver, methods, prepare
from tests.support.running_stack import RunningStack, running_stack

from blemish_client import Client

_CALLS = 8
"""Calls of each method."""


@dataclass(frozen=True)
class Attacked:
    """A stack of its own, whose data the calls may delete."""

    stack: RunningStack
    pool: Pool
    log: Path
    server: psutil.Process


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory, surfaces: Path) -> Iterator[Attacked]:
    home = tmp_path_factory.mktemp("attacked")
    with (home / "log").open("wb") as log, running_stack(home / "stack", surfaces, log) as stack:
        yield Attacked(stack, prepare(stack), home / "log", _server(stack))


def _server(stack: RunningStack) -> psutil.Process:
    """Return the process that serves the stack's address."""
    port = int(stack.address.rpartition(":")[2])
    for process in psutil.process_iter():
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue
        if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections):
            return process
    raise AssertionError(f"no process listens on {stack.address}")


def open_streams(stack: RunningStack) -> float:
    """Return the number of open streams in the metrics."""
    with urllib.request.urlopen(f"http://{stack.metrics}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("blemish_streams{"))


@pytest.mark.parametrize("method", methods())
def test_random_calls_end_with_a_status_that_names_the_fault(attacked: Attacked, method: str) -> None:
    Driver(attacked.stack, attacked.pool).run(method, _CALLS, 0, derandomize=True)


def test_server_works_as_before_and_holds_nothing_of_the_calls(attacked: Attacked) -> None:
    assert attacked.server.is_running()
    assert _server(attacked.stack).pid == attacked.server.pid
    with Client(attacked.stack.address) as client:
        client.import_dataset("again", str(attacked.stack.surfaces / "tile"))
        trained = client.wait(client.train("again", model_id="again", promote=True))
        assert trained.error == ""
        image = next((attacked.stack.surfaces / "tile" / "test").glob("*/*.png")).read_bytes()
        assert client.score(image, "again").score > 0
    for _ in range(100):
        if not (streams := open_streams(attacked.stack)):
            break
        time.sleep(0.1)
    assert streams == 0
    bugs = [line for line in attacked.log.read_text().splitlines() if "this is a bug" in line]
    assert bugs == []
