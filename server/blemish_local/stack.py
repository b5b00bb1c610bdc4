# SPDX-License-Identifier: Apache-2.0
"""The four services of the stack, the order they start in, and the URLs that tie them together.

This is the composition root of the embedded stack: ports, password and folders are settled
here, and the server and the worker learn of them through the same variables as in production.
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
from pathlib import Path
from urllib.parse import urlsplit

from blemish_local import redis
from blemish_local.address import Address, free_loopback_port
from blemish_local.data_directory import DataDirectory
from blemish_local.options import StackOptions
from blemish_local.supervision import probes
from blemish_local.supervision.probes import Probe
from blemish_local.supervision.service import Part

_GRACE_S = 10.0
"""Of a server that is told nothing."""
# What the server takes to end beside the time it leaves its requests: it tells callers, writes the frames
# that are still to be kept, and waits for what its lanes have in hand.
_BEYOND_GRACE_S = 17.0
_READ_THE_LOG = "read its log; the parts come with pip install 'blemish[local]'"


@dataclass(frozen=True)
class Given:
    """A part that runs elsewhere, named by a URL."""

    name: str
    where: str
    """The variable that names it and its host, without credentials."""
    probe: Probe
    cure: str


@dataclass(frozen=True)
class Stack:
    given: tuple[Given, ...]
    stages: tuple[tuple[Part, ...], ...]
    """Started one stage after the other, the parts of a stage side by side."""
    variables: Mapping[str, str]
    """What every part gets in addition to the environment: URLs, store, address."""

    @property
    def store(self) -> str:
        return self.variables["BLEMISH_STORE"]


def compose(options: StackOptions, data: DataDirectory, listen: Address) -> Stack:
    """Settle everything that the parts need to know of each other.

    Raises:
        NoRedisServer: if none is given and none is installed.
    """
    outside = options.environment
    variables = {
        "BLEMISH_LISTEN": str(listen),
        "BLEMISH_STORE": outside.get("BLEMISH_STORE") or str(data.store),
    }
    # Left out when there are none: an empty entry in a list of paths is the current folder.
    if options.import_roots:
        variables["BLEMISH_IMPORT_ROOTS"] = os.pathsep.join(map(str, options.import_roots))
    given: list[Given] = []
    stages: list[tuple[Part, ...]] = []

    if options.redis_url is not None:
        given.append(_given_redis(options.redis_url))
        variables["REDIS_URL"] = options.redis_url
    else:
        redis_part, variables["REDIS_URL"] = _redis(data, outside)
        stages.append((redis_part,))

    if options.qdrant_url is not None:
        given.append(_given_qdrant(options.qdrant_url, options.qdrant_grpc_port))
        variables["QDRANT_URL"] = options.qdrant_url
        variables["QDRANT_GRPC_PORT"] = str(options.qdrant_grpc_port)
    else:
        qdrant_part, here = _qdrant(data, outside)
        variables |= here
        stages.append((qdrant_part,))

    inside = {**outside, **variables}
    stages.append((_worker(data, inside), _server(data, inside, listen)))
    return Stack(tuple(given), tuple(stages), variables)


def shell_script(variables: Mapping[str, str]) -> str:
    """Return the lines that bring ``variables`` into a shell, to start another worker from it."""
    return "".join(f"export {name}={shlex.quote(variables[name])}\n" for name in sorted(variables))


def _given_redis(url: str) -> Given:
    parts = urlsplit(url)
    # Never the URL as a whole: it may hold a password.
    where = f"{parts.hostname}:{parts.port or 6379}"
    return Given(
        "redis",
        f"REDIS_URL, {where}",
        partial(probes.redis_answers, url),
        f"start the Redis at {where}, or unset REDIS_URL to have one started here",
    )


def _redis(data: DataDirectory, outside: Mapping[str, str]) -> tuple[Part, str]:
    found = redis.find_server()
    url = redis.configure(data.redis, free_loopback_port())
    part = Part(
        name="redis",
        what=found.origin,
        command=(str(found.executable), redis.CONFIGURATION),
        environment=outside,
        directory=data.redis,
        log=data.logs / "redis.log",
        probe=partial(probes.redis_answers, url),
        cure=f"read its log; what it keeps lies in {data.redis}",
    )
    return part, url


def _given_qdrant(url: str, grpc_port: int) -> Given:
    target = Address(urlsplit(url).hostname or "", grpc_port)
    return Given(
        "qdrant",
        f"QDRANT_URL, gRPC at {target}",
        partial(probes.qdrant_answers, str(target), encrypted=url.startswith("https:")),
        f"start the Qdrant whose gRPC port is {target} (QDRANT_GRPC_PORT), "
        "or unset QDRANT_URL to have one started here",
    )


def _qdrant(data: DataDirectory, outside: Mapping[str, str]) -> tuple[Part, dict[str, str]]:
    grpc_at = Address("127.0.0.1", free_loopback_port())
    environment = dict(outside)
    if found := shutil.which("qdrant"):
        http_at = Address("127.0.0.1", free_loopback_port())
        what, directory = found, data.qdrant_server
        command: tuple[str, ...] = (found,)
        environment |= {
            "QDRANT__SERVICE__HOST": http_at.host,
            "QDRANT__SERVICE__HTTP_PORT": str(http_at.port),
            "QDRANT__SERVICE__GRPC_PORT": str(grpc_at.port),
            "QDRANT__STORAGE__STORAGE_PATH": str(directory / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(directory / "snapshots"),
            "QDRANT__TELEMETRY_DISABLED": "true",
        }
    else:
        # It speaks gRPC alone; the URL carries the host to clients that ask for one.
        http_at = grpc_at
        what, directory = _embedded_qdrant(), data.qdrant
        command = _module("blemish_local.qdrant", "--dir", str(directory), "--listen", str(grpc_at))
    part = Part(
        name="qdrant",
        what=what,
        command=command,
        environment=environment,
        directory=directory,
        log=data.logs / "qdrant.log",
        probe=partial(probes.qdrant_answers, str(grpc_at)),
        cure=f"{_READ_THE_LOG}; what it keeps lies in {directory}",
    )
    return part, {
        "QDRANT_URL": f"http://{http_at}",
        "QDRANT_GRPC_PORT": str(grpc_at.port),
    }


def _worker(data: DataDirectory, inside: Mapping[str, str]) -> Part:
    ready_file = data.run / "worker.ready"
    return Part(
        name="worker",
        what="Celery",
        command=_module("blemish_workers"),
        environment={**inside, "BLEMISH_READY_FILE": str(ready_file)},
        # Where this process runs, so that relative paths in the environment keep their meaning.
        directory=Path.cwd(),
        log=data.logs / "worker.log",
        probe=partial(probes.file_exists, ready_file),
        cure=_READ_THE_LOG,
        ready_file=ready_file,
    )


def _server(data: DataDirectory, inside: Mapping[str, str], listen: Address) -> Part:
    # Not by a call: whom its certificate is for, and who may call, is not known here.
    ready_file = data.run / "server.ready"
    return Part(
        name="server",
        what=f"gRPC at {listen}",
        command=_module("blemish_server"),
        environment={**inside, "BLEMISH_READY_FILE": str(ready_file)},
        # Where this process runs, so that relative paths in the environment keep their meaning.
        directory=Path.cwd(),
        log=data.logs / "server.log",
        probe=partial(probes.file_exists, ready_file),
        cure=_READ_THE_LOG,
        ready_file=ready_file,
        grace_s=_grace_s(inside) + _BEYOND_GRACE_S,
    )


def _grace_s(environment: Mapping[str, str]) -> float:
    """What the server is told to leave its requests to end; what is no number it refuses itself."""
    with suppress(ValueError):
        return float(environment.get("BLEMISH_GRACE_S") or _GRACE_S)
    return _GRACE_S


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    # -P: a file in the working directory must not shadow a module.
    return (sys.executable, "-P", "-m", name, *arguments)


def _embedded_qdrant() -> str:
    try:
        return f"embedded, qdrant edge {version('qdrant-edge-py')}"
    except PackageNotFoundError:
        return "embedded"
