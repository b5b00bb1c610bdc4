# SPDX-License-Identifier: Apache-2.0
"""Proxies of the environment: no traffic within an installation takes one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from qdrant_client.http.exceptions import ResponseHandlingException
from tests.support.ports import free_port
from tests.support.processes import running, wait_for_file, wait_for_port, wait_for_text
from tests.support.proxies import EXCEPTIONS, VARIABLES, RecordingProxy, recording_proxy

from blemish_client import AsyncClient, Client
from blemish_client.errors import Unavailable
from blemish_client.transport.retry import RetryPolicy
from blemish_core.platform import errors
from blemish_core.platform.names import ModelRef
from blemish_core.search.finder import Finder
from blemish_core.search.label_reader import LabelReader
from blemish_core.search.labelled_items import LabelledItems
from blemish_core.search.qdrant_channel import open_client
from blemish_core.search.query import Query
from blemish_core.search.search_index import SearchIndex
from blemish_local.supervision import probes

if TYPE_CHECKING:
    from tests.integration.conftest import RunningStack

VERSION = ModelRef("tile", 1)
HURRIED = RetryPolicy(first_pause_s=0.05, call_s=0.1)
# Its health check needs no key, and every other call is refused, as with a wrong key.
LOCKED_QDRANT = """
import sys
from concurrent.futures import ThreadPoolExecutor
import grpc

class Lock(grpc.ServerInterceptor):
    def intercept_service(self, continuation, details):
        if details.method == "/qdrant.Qdrant/HealthCheck":
            return grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong key")
        )

server = grpc.server(ThreadPoolExecutor(2), interceptors=[Lock()])
server.add_insecure_port("127.0.0.1:" + sys.argv[1])
server.start()
server.wait_for_termination()
"""
EVERY_HOST = dict.fromkeys(EXCEPTIONS, "")
"""Variables that exempt no host from a proxy."""


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *EXCEPTIONS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def proxy() -> Iterator[RecordingProxy]:
    with recording_proxy() as started:
        yield started


@pytest.fixture(params=VARIABLES)
def ambient_proxy(
    request: pytest.FixtureRequest, proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> RecordingProxy:
    """Return a proxy that one variable of the environment names."""
    monkeypatch.setenv(request.param, proxy.url)
    return proxy


@pytest.fixture(scope="module")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run the embedded Qdrant and return its port."""
    port = free_port()
    command = (sys.executable, "-m", "blemish_local.qdrant", "--listen", f"127.0.0.1:{port}")
    with running(*command, "--dir", str(tmp_path_factory.mktemp("qdrant"))) as process:
        wait_for_port(f"127.0.0.1:{port}", process)
        yield port


async def test_connections_to_qdrant_take_no_proxy_of_the_environment(
    qdrant: int, ambient_proxy: RecordingProxy
) -> None:
    where = (f"http://127.0.0.1:{qdrant}", qdrant)
    index, finder, labels = SearchIndex.connect(*where), Finder.connect(*where), LabelReader.connect(*where)

    index.ping()
    with pytest.raises(errors.NotFound, match="has no index yet"):
        await finder.search(VERSION, Query(np.ones(4, np.float32)), 5)
    with pytest.raises(errors.NotFound, match="has no index yet"):
        await labels.read(VERSION, LabelledItems())
    await probes.qdrant_answers(f"127.0.0.1:{qdrant}")

    await finder.close()
    await labels.close()
    assert ambient_proxy.requests == []


def test_rest_calls_to_qdrant_take_no_proxy_of_the_environment(ambient_proxy: RecordingProxy) -> None:
    port = free_port()
    client = open_client(f"http://127.0.0.1:{port}", port, timeout_s=5)

    with pytest.raises(ResponseHandlingException, match="refused"):
        client.http.service_api.healthz()

    assert ambient_proxy.requests == []


async def test_connections_to_qdrant_take_the_proxy_that_the_user_names(qdrant: int) -> None:
    with recording_proxy(forwards=True) as proxy:
        where = (f"http://127.0.0.1:{qdrant}", qdrant, "", proxy.url)
        index, finder = SearchIndex.connect(*where), Finder.connect(*where)
        index.ping()
        with pytest.raises(errors.NotFound, match="has no index yet"):
            await finder.search(VERSION, Query(np.ones(4, np.float32)), 5)
        await probes.qdrant_answers(f"127.0.0.1:{qdrant}", proxy=proxy.url)
        await finder.close()
        assert set(proxy.requests) == {f"CONNECT 127.0.0.1:{qdrant} HTTP/1.1"}
        assert len(proxy.requests) >= 3


async def test_probe_fails_if_the_named_proxy_does(qdrant: int, proxy: RecordingProxy) -> None:
    with pytest.raises(probes.NotReady, match="UNAVAILABLE"):
        await probes.qdrant_answers(f"127.0.0.1:{qdrant}", proxy=proxy.url)
    with pytest.raises(errors.Unavailable):
        SearchIndex.connect(f"http://127.0.0.1:{qdrant}", qdrant, "", proxy.url).ping()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST", "ipv4:127.0.0.1", "dns:///localhost"]
)
async def test_client_takes_no_proxy_to_this_machine(
    stack: RunningStack, ambient_proxy: RecordingProxy, host: str
) -> None:
    target = f"{host}:{stack.address.rpartition(':')[2]}"
    with Client(target) as client:
        assert client.server_info().version
    async with AsyncClient(target) as client:
        assert await client.server_info()

    assert ambient_proxy.requests == []


def test_client_of_another_machine_takes_the_proxy_of_the_environment_and_names_it(
    proxy: RecordingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    with (
        Client("line-server.invalid:50051", retry_policy=HURRIED) as client,
        pytest.raises(Unavailable, match=r"took the proxy of http_proxy, add the host to no_proxy"),
    ):
        client.server_info()
    assert proxy.requests[0] == "CONNECT line-server.invalid:50051 HTTP/1.1"


def test_stack_works_and_trains_although_the_environment_names_a_dead_proxy(
    surfaces: Path, tmp_path: Path
) -> None:
    with recording_proxy() as proxy:
        environment = dict.fromkeys(VARIABLES, proxy.url) | EVERY_HOST | {"HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "blemish_local", "up", "--data", str(tmp_path / "data")),
                "--no-console",
                *("--listen", "127.0.0.1:0", "--address-file", str(tmp_path / "address")),
                *("--import-root", str(surfaces)),
            ],
            env=os.environ | environment,
            start_new_session=True,
        )
        try:
            with Client(wait_for_file(tmp_path / "address", process)) as client:
                assert all(each.available for each in client.server_info().dependencies)
                client.import_dataset("tile", str(surfaces / "tile"))
                trained = client.wait(client.train("tile", model_id="tile", promote=True))
                indexed = client.wait(client.embed(trained.result.model_version, "tile"))
                assert indexed.error == ""
                image = (surfaces / "tile/test/good/000.png").read_bytes()
                assert len(list(client.search(image, "tile", limit=3))) == 3
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    assert proxy.requests == []


def test_stack_is_not_ready_while_the_server_cannot_reach_qdrant(tmp_path: Path) -> None:
    """A Qdrant that passes the health check but refuses the API key is of no use to the server."""
    port = free_port()
    with (
        running(sys.executable, "-c", LOCKED_QDRANT, str(port)) as qdrant,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "blemish_local", "up", "--data", str(tmp_path / "data")),
                "--no-console",
                *("--listen", "127.0.0.1:0", "--address-file", str(tmp_path / "address")),
            ],
            env=os.environ | {"QDRANT_URL": f"http://127.0.0.1:{port}", "QDRANT_GRPC_PORT": str(port)},
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        wait_for_port(f"127.0.0.1:{port}", qdrant)
        log = tmp_path / "data/logs/server.log"
        wait_for_text(log, '"serving"', process)
        assert "check QDRANT_API_KEY" in log.read_text()
        assert not (tmp_path / "data/run/server.ready").exists()
        assert not (tmp_path / "address").exists()
        process.send_signal(signal.SIGTERM)
        reported, _ = process.communicate(timeout=60)
        assert "blemish is up" not in reported
