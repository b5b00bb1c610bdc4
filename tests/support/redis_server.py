# SPDX-License-Identifier: Apache-2.0
"""Real Redis servers of Debian's package: with TLS, with Sentinel, and in a cluster."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
from tests.support.ports import free_port
from tests.support.processes import stop, wait_for_port

PASSWORD = "p@ss/word#1"
"""A password with characters that are special in a URL."""
QUOTED = "p%40ss%2Fword%231"
"""The password as a URL spells it."""
_PACKAGE = "the package redis-server is not installed, which these tests run"


def redis_server() -> str:
    """Return the path of ``redis-server``; without it, skip the test, or fail in continuous integration."""
    found = shutil.which("redis-server")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{_PACKAGE}; .ci/run installs it")
        pytest.skip(_PACKAGE)
    return found


@dataclass(frozen=True)
class Authority:
    """A certificate authority, and the certificate and key that it issued to Redis."""

    roots: Path
    chain: Path
    key: Path

    @classmethod
    def create(cls, folder: Path, *names: str) -> "Authority":
        """Create an authority whose certificate is for these host names and addresses."""
        folder.mkdir(parents=True, exist_ok=True)
        created = cls(folder / "roots.pem", folder / "chain.pem", folder / "key.pem")
        authority = trustme.CA()
        issued = authority.issue_cert(*(names or ("localhost", "127.0.0.1")))
        authority.cert_pem.write_to_path(created.roots)
        issued.private_key_pem.write_to_path(created.key)
        created.chain.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        return created

    def server_options(self, port: int, *, client_certificates: bool = False) -> dict[str, str]:
        """Return the options of a Redis that listens with TLS only."""
        return {
            "port": "0",
            "tls-port": str(port),
            "tls-cert-file": str(self.chain),
            "tls-key-file": str(self.key),
            "tls-ca-cert-file": str(self.roots),
            "tls-auth-clients": "yes" if client_certificates else "no",
            "tls-replication": "yes",
        }


@contextmanager
def running_redis(
    folder: Path, port: int, options: Mapping[str, str] | None = None, *, sentinel: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Redis, or a Sentinel, with lines of its configuration, until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = {"bind": "127.0.0.1", "port": str(port), "dir": str(folder)} | dict(options or {})
    configuration = folder / "redis.conf"
    configuration.write_text("".join(f"{name} {value}\n" for name, value in lines.items()))
    command = [redis_server(), str(configuration), *(["--sentinel"] if sentinel else [])]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for_port(f"127.0.0.1:{port}", process)
        yield process
    finally:
        if process.poll() is None:
            stop(process)


@dataclass(frozen=True)
class Sentinels:
    """A master with a replica, watched by a Sentinel."""

    port: int
    """Port of the Sentinel."""
    master: subprocess.Popen[bytes]
    ports: tuple[int, int]
    """Ports of the master and the replica as they started."""

    def wait_until_replicated(self, authority: Authority | None = None, within_s: float = 60.0) -> None:
        """Wait until the replica has what the master has, and the Sentinel has found the replica."""

        def replicated() -> bool:
            with self._client(self.port, authority, "") as sentinel:
                known: Any = sentinel.sentinel_slaves("jobs")
            with self._client(self.ports[1], authority, PASSWORD) as replica:
                link: Any = replica.info("replication")
            return bool(known) and link["master_link_status"] == "up"

        _wait(replicated, "no replication", within_s)

    def wait_for_failover(self, authority: Authority | None = None, within_s: float = 60.0) -> None:
        """Wait until the replica is the master that the Sentinel names."""

        def failed_over() -> bool:
            with self._client(self.port, authority, "") as sentinel:
                address: Any = sentinel.sentinel_get_master_addr_by_name("jobs")
            return bool(address) and address[1] == self.ports[1]

        _wait(failed_over, "no failover", within_s)

    @staticmethod
    def _client(port: int, authority: Authority | None, password: str) -> redis.Redis:
        roots = str(authority.roots) if authority else None
        return redis.Redis(
            port=port, password=password or None, ssl=authority is not None, ssl_ca_certs=roots
        )


def _wait(condition: Callable[[], bool], failure: str, within_s: float) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"{failure} within {within_s:g} s"
        time.sleep(0.1)


@contextmanager
def running_sentinels(folder: Path, authority: Authority | None = None) -> Iterator[Sentinels]:
    """Run a master, a replica and a Sentinel, with TLS if an authority is given."""
    first, second, own = free_port(), free_port(), free_port()
    login = {"requirepass": f'"{PASSWORD}"', "masterauth": f'"{PASSWORD}"', "appendonly": "yes"}

    def options(port: int) -> dict[str, str]:
        return authority.server_options(port) if authority else {}

    watch = {
        "sentinel monitor": f"jobs 127.0.0.1 {first} 1",
        "sentinel auth-pass": f'jobs "{PASSWORD}"',
        "sentinel down-after-milliseconds": "jobs 3000",
        "sentinel failover-timeout": "jobs 5000",
    }
    with (
        running_redis(folder / "master", first, login | options(first)) as master,
        running_redis(
            folder / "replica", second, login | options(second) | {"replicaof": f"127.0.0.1 {first}"}
        ),
        running_redis(folder / "sentinel", own, options(own) | watch, sentinel=True),
    ):
        yield Sentinels(own, master, (first, second))
