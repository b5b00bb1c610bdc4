# SPDX-License-Identifier: Apache-2.0
"""The stack under test: real processes that can be killed, suspended and restarted one by one."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import psutil
from qdrant_client import QdrantClient
from tests.support.ports import free_port

from blemish_core.jobs.record import Job
from blemish_core.jobs.store import JobStore
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import Unavailable
from blemish_core.search.search_index import SearchIndex
from blemish_local import redis

_READY_WITHIN_S = 90.0
_CLOCK_SOURCE = Path(__file__).parent / "clock.c"


class StackProcess:
    """A process of the stack; ``ready_file`` or ``port`` shows that it is ready."""

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        folder: Path,
        ready_file: Path | None = None,
        port: int = 0,
    ) -> None:
        self.name = name
        self._command = command
        self._environment = dict(environment)
        self._folder = folder
        self._ready_file = ready_file
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process unless it runs; do not wait."""
        if self.alive:
            return
        if self._ready_file:
            self._ready_file.unlink(missing_ok=True)
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        """Return when the process is ready."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while not self._is_ready():
            if not self.alive or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not ready; see {self._folder}/{self.name}.log")
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        if self._ready_file:
            return self._ready_file.exists()
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 0.2):
            return True
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """Ask the process to end, like a supervisor; kill it after 20 s."""
        if self._process is not None and self.alive:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend the process and its descendants inside the context."""
        family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.resume()


class ChaosStack:
    """Redis with its append-only file, the embedded Qdrant, the server and two workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store_folder = folder / "store"
        self._clock_offset = folder / "clock"
        self._clock_library = _compile_clock(folder)
        self.set_clock_offset(0)
        redis_port, qdrant_port, server_port = free_port(), free_port(), free_port()
        self.redis_url = redis.configure(folder / "redis", redis_port)
        self.address = f"127.0.0.1:{server_port}"
        self.environment = os.environ | {
            "REDIS_URL": self.redis_url,
            "QDRANT_URL": f"http://127.0.0.1:{qdrant_port}",
            "QDRANT_GRPC_PORT": str(qdrant_port),
            "BLEMISH_STORE": str(self.store_folder),
            "BLEMISH_LISTEN": self.address,
            "BLEMISH_IMPORT_ROOTS": str(folder / "surfaces"),
            "HF_HUB_OFFLINE": "1",
            "BLEMISH_MEASURE_RATES": "false",
        }
        self.redis = StackProcess(
            "redis",
            [str(redis.find_server().executable), redis.CONFIGURATION],
            os.environ,
            folder / "redis",
            port=redis_port,
        )
        self.qdrant = self._module(
            "qdrant",
            "blemish_local.qdrant",
            *("--dir", str(folder / "qdrant"), "--listen", f"127.0.0.1:{qdrant_port}"),
            port=qdrant_port,
        )
        self.server = self._module("server", "blemish_server", port=server_port)
        self.workers = [self._worker("worker-a"), self._worker("worker-b")]
        self.jobs = JobStore.connect(self.redis_url)
        self.models = ModelStore(self.store_folder / "models")
        self.index = SearchIndex.connect(self.environment["QDRANT_URL"], qdrant_port)
        self.qdrant_client = QdrantClient(
            url=self.environment["QDRANT_URL"],
            grpc_port=qdrant_port,
            prefer_grpc=True,
            check_compatibility=False,
            timeout=10,
            grpc_options={"grpc.max_reconnect_backoff_ms": 1000},
        )

    def _module(self, name: str, module: str, *arguments: str, port: int) -> StackProcess:
        command = [sys.executable, "-P", "-m", module, *arguments]
        return StackProcess(name, command, self.environment, self.folder, port=port)

    def _worker(self, name: str) -> StackProcess:
        ready = self.folder / f"{name}.ready"
        own = {"BLEMISH_READY_FILE": str(ready)}
        if self._clock_library:
            own |= {"LD_PRELOAD": str(self._clock_library), "CHAOS_CLOCK": str(self._clock_offset)}
        command = [sys.executable, "-P", "-m", "blemish_workers"]
        return StackProcess(name, command, self.environment | own, self.folder, ready_file=ready)

    def older_worker(self, tree: Path) -> StackProcess:
        """Return a worker that runs the sources in a folder."""
        ready = self.folder / "older.ready"
        path = os.pathsep.join(str(tree / part) for part in ("protos", "core", "workers"))
        own = {"BLEMISH_READY_FILE": str(ready), "PYTHONPATH": path}
        command = [sys.executable, "-P", "-m", "blemish_workers"]
        return StackProcess("older", command, self.environment | own, self.folder, ready_file=ready)

    def set_clock_offset(self, offset_s: int) -> None:
        """Shift the wall clock of the workers and their children.

        Raises:
            PermissionError: if there is no C compiler for the library that shifts it.
        """
        if offset_s and not self._clock_library:
            raise PermissionError("there is no C compiler")
        if not self._clock_offset.exists():
            self._clock_offset.write_bytes(bytes(8))
        with self._clock_offset.open("r+b") as file:
            file.write(struct.pack("=q", offset_s))

    @property
    def processes(self) -> list[StackProcess]:
        return [self.redis, self.qdrant, self.server, *self.workers]

    def start(self) -> None:
        """Start the processes that do not run, and wait until all are ready."""
        for process in self.processes:
            process.start()
        for process in self.processes:
            process.wait()
        with grpc.insecure_channel(self.address) as channel:
            grpc.channel_ready_future(channel).result(timeout=_READY_WITHIN_S)

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.terminate()

    def job(self, id: str) -> Job:
        """Return a job's record; retry while Redis is down."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while True:
            try:
                return self.jobs.get(id)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def find_worker(self, name: str) -> StackProcess:
        """Return the worker that a job's history names ``host:pid``."""
        pid = int(name.rpartition(":")[2])
        return next(worker for worker in self.workers if worker.alive and worker.pid == pid)

    def children(self) -> list[psutil.Process]:
        """Return all processes that run jobs of this stack, including orphans."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            if "blemish_workers.child" not in (process.info["cmdline"] or []):
                continue
            with suppress(psutil.Error):
                if process.environ().get("BLEMISH_STORE") == str(self.store_folder):
                    found.append(process)
        return found

    def wait_for_child(self, worker: StackProcess) -> psutil.Process:
        """Return the child of a worker, which starts after the job was accepted."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < deadline:
            for child in self.children():
                with suppress(psutil.Error):
                    if child.ppid() == worker.pid:
                        return child
            time.sleep(0.01)
        raise RuntimeError(f"{worker.name} has had no child for {_READY_WITHIN_S:.0f} s")


def _compile_clock(folder: Path) -> Path | None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = folder / "clock.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_CLOCK_SOURCE), "-ldl"], check=True
    )
    return library
