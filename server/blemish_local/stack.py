# SPDX-License-Identifier: Apache-2.0
"""The services of the stack, the order in which they start, and the variables that connect them.

This is the composition root of the embedded stack. It chooses ports, password and folders, and passes them
to the server and the worker in the same environment variables as in production.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from blemish_core.platform.redis_address import RedisAddress
from blemish_local import redis
from blemish_local.address import (
    Address,
    AddressUnusable,
    SocketAddress,
    free_loopback_port,
    parse_port,
    settle,
)
from blemish_local.data_directory import DataDirectory
from blemish_local.options import StackOptions
from blemish_local.supervision import probes
from blemish_local.supervision.probes import Probe
from blemish_local.supervision.service import ServiceSpec

_DEFAULT_GRACE_S = 10.0
"""Grace period of a server without BLEMISH_GRACE_S."""
_SHUTDOWN_MARGIN_S = 17.0
"""Time for the rest of the server's shutdown: notices to clients, frames to store, running batches."""
_CONSOLE = Address("127.0.0.1", 8080)
"""Address of the console, unless the port is taken."""
_READ_THE_LOG = "read its log; the services are installed by pip install 'blemish[local]'"


@dataclass(frozen=True)
class ExternalService:
    """A service that runs elsewhere and is named by a URL."""

    name: str
    source: str
    """The variable and the host that name it, without credentials."""
    probe: Probe
    remedy: str
    """Advice for the case that it does not answer."""


@dataclass(frozen=True)
class Stack:
    """The services to start and to connect to."""

    external: tuple[ExternalService, ...]
    stages: tuple[tuple[ServiceSpec, ...], ...]
    """Services to start, one stage after the other; those of a stage start together."""
    variables: Mapping[str, str]
    """Variables that every service receives in addition to the environment: URLs, store, address."""
    metrics: str = ""
    """URL of the server's metrics; empty if it has none."""
    console: str = ""
    """URL of the console; empty if it is left out."""

    @property
    def store(self) -> str:
        return self.variables["BLEMISH_STORE"]


def compose(options: StackOptions, data: DataDirectory, listen: Address | SocketAddress) -> Stack:
    """Choose the services, their ports and their folders.

    Raises:
        NoRedisServer: if no Redis is named and none is installed.
    """
    inherited = options.environment
    variables = {
        "BLEMISH_LISTEN": str(listen),
        "BLEMISH_STORE": inherited.get("BLEMISH_STORE") or str(data.store),
    }
    # Set the variable only if there are roots: an empty entry in a list of paths is the current folder.
    if options.import_roots:
        variables["BLEMISH_IMPORT_ROOTS"] = os.pathsep.join(map(str, options.import_roots))
    external: list[ExternalService] = []
    stages: list[tuple[ServiceSpec, ...]] = []

    if options.redis_url is not None:
        external.append(_external_redis(options.redis_url))
        variables["REDIS_URL"] = options.redis_url
    else:
        redis_spec, variables["REDIS_URL"] = _redis(data, inherited)
        stages.append((redis_spec,))

    if options.qdrant_url is not None:
        external.append(_external_qdrant(options, options.qdrant_url))
        variables["QDRANT_URL"] = options.qdrant_url
        variables["QDRANT_GRPC_PORT"] = str(options.qdrant_grpc_port)
    else:
        qdrant_spec, qdrant_variables = _qdrant(data, inherited)
        variables |= qdrant_variables
        variables["QDRANT_PROXY"] = ""  # it is for an external Qdrant
        stages.append((qdrant_spec,))

    environment = {**inherited, **variables}
    metrics = _metrics_address(inherited)
    own = {"BLEMISH_METRICS_LISTEN": str(metrics)} if metrics is not None else {}
    last = [_worker(data, environment), _server(data, environment | own, listen)]
    console = ""
    if options.console and is_console_installed():
        address = _console_address()
        console = f"http://{address}/"
        last.append(_console(data, inherited, listen, address))
    stages.append(tuple(last))
    url = f"http://{metrics.to_connect}/metrics" if metrics is not None else ""
    return Stack(tuple(external), tuple(stages), variables, url, console)


def is_console_installed() -> bool:
    """Return whether the extra with the console is installed."""
    return find_spec("nicegui") is not None


def shell_script(variables: Mapping[str, str]) -> str:
    """Return the lines that export the variables in a shell, to start another worker from it."""
    return "".join(f"export {name}={shlex.quote(variables[name])}\n" for name in sorted(variables))


def _external_redis(url: str) -> ExternalService:
    address = RedisAddress.parse(url)  # its text has no password
    return ExternalService(
        "redis",
        f"REDIS_URL, {address}",
        partial(probes.redis_answers, url),
        f"start the Redis at {address}, or unset REDIS_URL to have one started here",
    )


def _redis(data: DataDirectory, inherited: Mapping[str, str]) -> tuple[ServiceSpec, str]:
    found = redis.find_server()
    url = redis.configure(data.redis, free_loopback_port())
    spec = ServiceSpec(
        name="redis",
        description=found.origin,
        command=(str(found.executable), redis.CONFIGURATION),
        environment=inherited,
        directory=data.redis,
        log=data.logs / "redis.log",
        probe=partial(probes.redis_answers, url),
        remedy=f"read its log; its data is in {data.redis}",
    )
    return spec, url


def _external_qdrant(options: StackOptions, url: str) -> ExternalService:
    target = Address(urlsplit(url).hostname or "", options.qdrant_grpc_port)
    return ExternalService(
        "qdrant",
        f"QDRANT_URL, gRPC at {target}",
        partial(
            probes.qdrant_answers,
            str(target),
            encrypted=url.startswith("https:"),
            proxy=options.qdrant_proxy,
        ),
        f"start the Qdrant whose gRPC port is {target} (QDRANT_GRPC_PORT), "
        "or unset QDRANT_URL to have one started here",
    )


def _qdrant(data: DataDirectory, inherited: Mapping[str, str]) -> tuple[ServiceSpec, dict[str, str]]:
    grpc_address = Address("127.0.0.1", free_loopback_port())
    environment = dict(inherited)
    if found := shutil.which("qdrant"):
        http_address = Address("127.0.0.1", free_loopback_port())
        description, directory = found, data.qdrant_server
        command: tuple[str, ...] = (found,)
        environment |= {
            "QDRANT__SERVICE__HOST": http_address.host,
            "QDRANT__SERVICE__HTTP_PORT": str(http_address.port),
            "QDRANT__SERVICE__GRPC_PORT": str(grpc_address.port),
            "QDRANT__STORAGE__STORAGE_PATH": str(directory / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(directory / "snapshots"),
            "QDRANT__TELEMETRY_DISABLED": "true",
        }
    else:
        # It serves gRPC only; clients take the host from the URL.
        http_address = grpc_address
        description, directory = _embedded_qdrant(), data.qdrant
        command = _module("blemish_local.qdrant", "--dir", str(directory), "--listen", str(grpc_address))
    spec = ServiceSpec(
        name="qdrant",
        description=description,
        command=command,
        environment=environment,
        directory=directory,
        log=data.logs / "qdrant.log",
        probe=partial(probes.qdrant_answers, str(grpc_address)),
        remedy=f"{_READ_THE_LOG}; its data is in {directory}",
    )
    return spec, {
        "QDRANT_URL": f"http://{http_address}",
        "QDRANT_GRPC_PORT": str(grpc_address.port),
    }


def _worker(data: DataDirectory, environment: Mapping[str, str]) -> ServiceSpec:
    ready_file = data.run / "worker.ready"
    return ServiceSpec(
        name="worker",
        description="Celery",
        command=_module("blemish_workers"),
        environment={**environment, "BLEMISH_READY_FILE": str(ready_file)},
        # Keep the working directory, so that relative paths in the environment stay valid.
        directory=Path.cwd(),
        log=data.logs / "worker.log",
        probe=partial(probes.file_exists, ready_file),
        remedy=_READ_THE_LOG,
        ready_file=ready_file,
    )


def _server(
    data: DataDirectory, environment: Mapping[str, str], listen: Address | SocketAddress
) -> ServiceSpec:
    # A file instead of a call, because a call may need a credential and a trusted certificate.
    ready_file = data.run / "server.ready"
    return ServiceSpec(
        name="server",
        description=f"gRPC at {listen}",
        command=_module("blemish_server"),
        environment={**environment, "BLEMISH_READY_FILE": str(ready_file)},
        # Keep the working directory, so that relative paths in the environment stay valid.
        directory=Path.cwd(),
        log=data.logs / "server.log",
        probe=partial(probes.file_exists, ready_file),
        remedy=_READ_THE_LOG,
        ready_file=ready_file,
        grace_s=_server_grace_s(environment) + _SHUTDOWN_MARGIN_S,
    )


def _console(
    data: DataDirectory, inherited: Mapping[str, str], listen: Address | SocketAddress, address: Address
) -> ServiceSpec:
    """Return the console, which needs no other service to start and reports a server that is away."""
    ready_file = data.run / "console.ready"
    options = ["--server", str(listen.to_connect)]
    if certificate := inherited.get("BLEMISH_TLS_CERTIFICATE"):
        options += ["--roots", certificate]
    command = _module("blemish_client.cli", *options, "console", "--listen", str(address))
    return ServiceSpec(
        name="console",
        description=f"http://{address}/",
        command=(*command, "--address-file", str(ready_file)),
        environment=inherited,
        # Keep the working directory, so that relative paths in the environment stay valid.
        directory=Path.cwd(),
        log=data.logs / "console.log",
        probe=partial(probes.file_exists, ready_file),
        remedy="read its log, or leave it out with --no-console",
        ready_file=ready_file,
        is_optional=True,
    )


def _console_address() -> Address:
    """Return the usual address of the console, or another port if that is taken."""
    try:
        address = settle(_CONSOLE)
        assert isinstance(address, Address)
        return address
    except AddressUnusable:
        return Address(_CONSOLE.host, free_loopback_port())


def _metrics_address(inherited: Mapping[str, str]) -> Address | None:
    """Return the address of the server's metrics, with port 0 replaced by a free port.

    The server itself rejects an address that cannot be used.
    """
    try:
        address = parse_port(inherited.get("BLEMISH_METRICS_LISTEN", ""))
        if address.port:
            return address
        settled = settle(address)
    except (ValueError, AddressUnusable):
        return None
    assert isinstance(settled, Address)
    return settled


def _server_grace_s(environment: Mapping[str, str]) -> float:
    """Return the server's grace period; the server itself rejects a value that is not a number."""
    with suppress(ValueError):
        return float(environment.get("BLEMISH_GRACE_S") or _DEFAULT_GRACE_S)
    return _DEFAULT_GRACE_S


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    # -P: a file in the working directory must not shadow a module.
    return (sys.executable, "-P", "-m", name, *arguments)


def _embedded_qdrant() -> str:
    try:
        return f"embedded, qdrant edge {version('qdrant-edge-py')}"
    except PackageNotFoundError:
        return "embedded"
