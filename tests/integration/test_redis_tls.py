# SPDX-License-Identifier: Apache-2.0
"""Redis over TLS, over a unix socket, behind Sentinel and in a cluster, by Debian's real server."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.sentinel import MasterNotFoundError
from tests.support.ports import free_port
from tests.support.processes import running, wait_for_file
from tests.support.redis_server import (
    PASSWORD,
    QUOTED,
    Authority,
    redis_server,
    running_redis,
    running_sentinels,
)

from blemish_client import Client
from blemish_core.jobs.record import EmbedSpec
from blemish_core.jobs.store import UPDATES_KEY, JobStore
from blemish_core.jobs.worker_registry import WorkerRegistry
from blemish_core.platform import redis_address
from blemish_core.platform.errors import FailedPrecondition, Unavailable
from blemish_core.platform.redis_address import RedisAddress
from blemish_core.platform.redis_check import RedisCheck
from blemish_local.supervision.probes import NotReady, redis_answers
from blemish_server.jobs.dispatch import Dispatcher

LOGIN = {"requirepass": f'"{PASSWORD}"', "appendonly": "yes"}
SPEC = EmbedSpec(model="models/tile/versions/1", dataset="tile")


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    redis_server()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def tls_port(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    with running_redis(tmp_path_factory.mktemp("redis"), port, LOGIN | authority.server_options(port)):
        yield port


async def use_every_connection_after_failover(url: str, within_s: float = 60.0) -> None:
    """Reach Redis by each client, as soon as the Sentinel names the new master."""
    give_up = time.monotonic() + within_s
    while True:
        try:
            return await use_every_connection(url)
        except (Unavailable, NotReady, MasterNotFoundError):
            assert time.monotonic() < give_up
            await asyncio.sleep(0.5)


async def use_every_connection(url: str) -> None:
    """Reach Redis by each client that the server and the workers have."""
    store = JobStore.connect(url)
    job, _ = store.create(SPEC)
    WorkerRegistry.connect(url).workers()
    RedisCheck.connect(url).ping()
    await redis_answers(url)
    dispatcher = Dispatcher(url)
    dispatcher.ping()
    dispatcher.send(job)
    dispatcher.close()
    events = RedisAddress.parse(url).async_client(socket_timeout=5)
    assert await events.xlen(UPDATES_KEY) > 0
    await redis_address.close(events)


async def test_every_connection_verifies_the_certificate_and_works(
    tls_port: int, authority: Authority
) -> None:
    await use_every_connection(f"rediss://:{QUOTED}@localhost:{tls_port}/0?ssl_ca_certs={authority.roots}")


@pytest.mark.parametrize(
    ("host", "trusts"),
    [("localhost", False), ("127.0.0.1", False), ("ip6-localhost", True)],
    ids=["other authority", "other authority by address", "other host name"],
)
async def test_every_connection_rejects_a_certificate_that_it_cannot_verify(
    authority: Authority, tmp_path: Path, host: str, trusts: bool
) -> None:
    """The impostor gets neither the password nor any other byte after the handshake."""
    impostor = Authority.create(tmp_path / "impostor", *(["other.example"] if trusts else ["localhost"]))
    roots = impostor.roots if trusts else authority.roots
    with recording_tls_server(impostor) as (port, received):
        url = f"rediss://:{QUOTED}@{'localhost' if trusts else host}:{port}/0?ssl_ca_certs={roots}"
        dispatcher = Dispatcher(url)
        events = RedisAddress.parse(url).async_client()
        with pytest.raises(Unavailable, match="certificate verify failed"):
            JobStore.connect(url).ping()
        with pytest.raises(Unavailable, match="certificate verify failed"):
            dispatcher.ping()
        with pytest.raises(NotReady, match="certificate verify failed"):
            await redis_answers(url)
        with pytest.raises(Exception, match="certificate verify failed"):
            await events.ping()
        await redis_address.close(events)
        assert received == []


async def test_verification_can_be_switched_off_and_is_warned_about(tls_port: int) -> None:
    url = f"rediss://:{QUOTED}@localhost:{tls_port}/0?ssl_cert_reqs=none"
    await use_every_connection(url)
    check = RedisCheck.connect(url)
    check.ping()
    assert [text for text in check.warnings if "is not verified" in text] == list(check.warnings)
    assert len(check.warnings) == 1


async def test_client_certificate_is_presented_by_every_connection(
    authority: Authority, tmp_path: Path
) -> None:
    port = free_port()
    options = authority.server_options(port, client_certificates=True) | {"appendonly": "yes"}
    url = f"rediss://localhost:{port}/0?ssl_ca_certs={authority.roots}"
    with running_redis(tmp_path / "redis", port, options):
        with pytest.raises(Unavailable):
            JobStore.connect(url).ping()
        await use_every_connection(f"{url}&ssl_certfile={authority.chain}&ssl_keyfile={authority.key}")


async def test_unix_socket_serves_every_connection(tmp_path: Path) -> None:
    port, path = free_port(), tmp_path / "redis.sock"
    with running_redis(tmp_path / "redis", port, LOGIN | {"unixsocket": str(path)}):
        await use_every_connection(f"unix://:{QUOTED}@{path}?db=3")


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
async def test_sentinel_leads_every_connection_to_the_new_master(
    authority: Authority, tmp_path: Path, encrypted: bool
) -> None:
    with running_sentinels(tmp_path, authority if encrypted else None) as sentinels:
        scheme, options = "redis+sentinel", ""
        if encrypted:
            scheme, options = "rediss+sentinel", f"?ssl_ca_certs={authority.roots}"
        url = f"{scheme}://:{QUOTED}@127.0.0.1:{free_port()},127.0.0.1:{sentinels.port}/jobs/0{options}"
        store = JobStore.connect(url)
        await use_every_connection(url)
        dispatcher = Dispatcher(url)
        dispatcher.ping()
        job, _ = store.create(SPEC)

        sentinels.wait_until_replicated(authority if encrypted else None)
        sentinels.master.kill()
        sentinels.wait_for_failover(authority if encrypted else None)

        await use_every_connection_after_failover(url)
        assert store.get(job.id).id == job.id
        dispatcher.send(job)


def test_worker_receives_messages_through_sentinel(tmp_path: Path) -> None:
    with running_sentinels(tmp_path / "redis") as sentinels:
        require_canary(f"redis+sentinel://:{QUOTED}@127.0.0.1:{sentinels.port}/jobs/2", tmp_path)


def test_worker_receives_messages_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with running_redis(tmp_path / "redis", free_port(), LOGIN | {"unixsocket": str(path)}):
        require_canary(f"unix://:{QUOTED}@{path}?db=2", tmp_path)


def require_canary(url: str, folder: Path, within_s: float = 60.0) -> None:
    """Run a worker until it has received a message that it sent to itself."""
    ready = folder / "ready"
    environment = {
        "REDIS_URL": url,
        "BLEMISH_STORE": str(folder / "store"),
        "BLEMISH_READY_FILE": str(ready),
    }
    with running(sys.executable, "-m", "blemish_workers", folder=None, **environment) as worker:
        wait_for_file(ready, worker)
        registry = WorkerRegistry.connect(url)
        give_up = time.monotonic() + within_s
        while not any(each.canary for each in registry.workers()):
            assert time.monotonic() < give_up, f"no message within {within_s:g} s"
            time.sleep(0.2)


async def test_read_only_replica_is_rejected(tmp_path: Path) -> None:
    with running_sentinels(tmp_path) as sentinels:
        url = f"redis://:{QUOTED}@127.0.0.1:{sentinels.ports[1]}/0"
        with pytest.raises(Unavailable, match="is a replica, which accepts no writes"):
            RedisCheck.connect(url).ping()
        with pytest.raises(NotReady, match="is a replica"):
            await redis_answers(url)


@pytest.mark.parametrize(
    ("options", "warnings"),
    [
        ({"appendonly": "yes"}, []),
        ({"save": "3600 1"}, []),
        ({"save": '""'}, ["appendonly"]),
        ({"appendonly": "yes", "maxmemory-policy": "allkeys-lru"}, ["allkeys-lru"]),
        ({"appendonly": "yes", "maxmemory-policy": "volatile-ttl"}, ["volatile-ttl"]),
        ({"save": '""', "maxmemory-policy": "allkeys-random"}, ["allkeys-random", "appendonly"]),
        ({"save": '""', "rename-command CONFIG": '""', "maxmemory-policy": "allkeys-lfu"}, ["allkeys-lfu"]),
    ],
)
def test_redis_that_loses_jobs_is_warned_about(
    tmp_path: Path, options: dict[str, str], warnings: list[str]
) -> None:
    port = free_port()
    with running_redis(tmp_path, port, options):
        check = RedisCheck.connect(f"redis://127.0.0.1:{port}/0")
        check.ping()
        assert len(check.warnings) == len(warnings)
        assert all(word in text for word, text in zip(warnings, check.warnings, strict=True))


def test_user_without_the_right_to_inspect_gets_no_warning(tmp_path: Path) -> None:
    port = free_port()
    with running_redis(tmp_path, port, {"save": '""', "user jobs": "on >pw ~* &* +@all -info -config"}):
        check = RedisCheck.connect(f"redis://jobs:pw@127.0.0.1:{port}/0")
        check.ping()
        assert check.warnings == ()


async def test_cluster_is_refused_by_every_process(tmp_path: Path) -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with running_redis(
        tmp_path / "redis", port, {"cluster-enabled": "yes", "cluster-port": str(free_port())}
    ):
        with pytest.raises(FailedPrecondition, match="Redis Cluster is not supported"):
            RedisCheck.connect(url).ping()
        with pytest.raises(NotReady, match="Redis Cluster is not supported"):
            await redis_answers(url)
        for module, expected in (
            (["blemish_server"], 2),
            (["blemish_workers"], 2),
            (["blemish_local", "up", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"], 1),
        ):
            done = subprocess.run(
                [sys.executable, "-m", *module],
                env=os.environ
                | {
                    "REDIS_URL": url,
                    "QDRANT_URL": "http://127.0.0.1:1",
                    "BLEMISH_STORE": str(tmp_path / "store"),
                    "BLEMISH_LISTEN": "127.0.0.1:0",
                },
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )
            assert done.returncode == expected, done.stderr
            assert "Redis Cluster is not supported" in done.stderr
            assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", [["blemish_server"], ["blemish_workers"], ["blemish_local", "up"]])
def test_unsupported_option_is_refused_at_start_by_name(tmp_path: Path, module: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *module],
        cwd=tmp_path,
        env=os.environ | {"REDIS_URL": "rediss://:secret@broker/0?ssl_ciphers=ALL"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "REDIS_URL" in done.stderr
    assert "option ssl_ciphers is not supported" in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_stack_trains_over_tls_and_shows_what_endangers_jobs(
    authority: Authority, surfaces: Path, tmp_path: Path
) -> None:
    port = free_port()
    options = authority.server_options(port) | {"requirepass": f'"{PASSWORD}"', "save": '""'}
    with running_redis(tmp_path / "redis", port, options):
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "blemish_local", "up", "--data", str(tmp_path / "data")),
                "--no-console",
                *("--listen", "127.0.0.1:0", "--address-file", str(tmp_path / "address")),
                *("--import-root", str(surfaces)),
            ],
            env=os.environ
            | {
                "REDIS_URL": f"rediss://:{QUOTED}@localhost:{port}/0?ssl_ca_certs={authority.roots}",
                "HF_HUB_OFFLINE": "1",
            },
            start_new_session=True,
        )
        try:
            address = wait_for_file(tmp_path / "address", process)
            with Client(address) as client:
                client.import_dataset("tile", str(surfaces / "tile"))
                assert client.wait(client.train("tile", model_id="tile")).error == ""
                (redis,) = (each for each in client.server_info().dependencies if each.name == "redis")
                assert redis.available
                assert ["appendonly" in warning for warning in redis.warnings] == [True]
            shown = subprocess.run(
                [sys.executable, "-m", "blemish_client.cli", "--server", address, "info"],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert "set appendonly to yes" in shown.stdout
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        for name in ("server", "worker"):
            assert "dependency endangers data" in (tmp_path / f"data/logs/{name}.log").read_text()


@contextmanager
def recording_tls_server(authority: Authority) -> Iterator[tuple[int, list[bytes]]]:
    """Accept TLS with the authority's certificate, and record the bytes that arrive after the handshake."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.chain, authority.key)
    received: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=record, args=(connection,), daemon=True).start()

    def record(connection: socket.socket) -> None:
        with connection:
            try:
                with context.wrap_socket(connection, server_side=True) as secure:
                    secure.settimeout(2)
                    if data := secure.recv(4096):
                        received.append(data)
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], received
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
