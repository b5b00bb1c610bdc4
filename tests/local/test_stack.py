# SPDX-License-Identifier: Apache-2.0
import itertools
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from blemish_local import stack
from blemish_local.address import Address
from blemish_local.data_directory import DataDirectory
from blemish_local.options import resolve
from blemish_local.stack import Stack, compose
from blemish_server.settings import ServerSettings

LISTEN = Address("0.0.0.0", 50051)


@pytest.fixture(autouse=True)
def numbered_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "free_loopback_port", itertools.count(7000).__next__)
    monkeypatch.setattr(stack, "settle", lambda address: address)


def composed(tmp_path: Path, import_roots: Sequence[Path] = (), **environment: str) -> Stack:
    environment.setdefault("PATH", os.environ["PATH"])
    return compose(resolve(environment, import_roots=import_roots), DataDirectory(tmp_path), LISTEN)


def names(stack: Stack) -> list[set[str]]:
    return [{spec.name for spec in stage} for stage in stack.stages]


def test_redis_starts_first_and_the_worker_with_the_server(tmp_path: Path) -> None:
    stack = composed(tmp_path, [tmp_path], LANG="C")

    assert names(stack) == [{"redis"}, {"qdrant"}, {"worker", "server"}]
    assert stack.external == ()
    for spec in stack.stages[-1]:
        assert spec.environment["LANG"] == "C"
        assert spec.environment["BLEMISH_LISTEN"] == "0.0.0.0:50051"
        assert spec.environment["BLEMISH_STORE"] == str(tmp_path / "store")
        assert spec.environment["BLEMISH_IMPORT_ROOTS"] == str(tmp_path)
        assert spec.environment["REDIS_URL"].startswith("redis://:")
        assert spec.environment["REDIS_URL"].endswith("@127.0.0.1:7000/0")
        assert spec.environment["QDRANT_URL"] == "http://127.0.0.1:7001"
        assert spec.environment["QDRANT_GRPC_PORT"] == "7001"
    worker = next(spec for spec in stack.stages[-1] if spec.name == "worker")
    assert worker.environment["BLEMISH_READY_FILE"] == str(worker.ready_file)


def test_external_services_are_not_started_and_keep_their_urls(
    tmp_path: Path,
) -> None:
    stack = composed(
        tmp_path,
        REDIS_URL="redis://user:secret@broker/3",
        QDRANT_URL="http://vectors:6333",
    )

    assert names(stack) == [{"worker", "server"}]
    assert [external.name for external in stack.external] == ["redis", "qdrant"]
    assert "broker:6379" in stack.external[0].remedy
    assert "vectors:6334" in stack.external[1].remedy
    assert not any("secret" in external.source + external.remedy for external in stack.external)
    for spec in stack.stages[0]:
        assert spec.environment["REDIS_URL"] == "redis://user:secret@broker/3"
        assert spec.environment["QDRANT_URL"] == "http://vectors:6333"
        assert spec.environment["QDRANT_GRPC_PORT"] == "6334"
    assert not (tmp_path / "redis").exists()


def test_store_and_import_roots_come_from_the_environment(tmp_path: Path) -> None:
    stack = composed(tmp_path, BLEMISH_STORE="s3://bucket/blemish", BLEMISH_IMPORT_ROOTS="")

    assert stack.store == "s3://bucket/blemish"
    for spec in stack.stages[-1]:
        assert not spec.environment.get("BLEMISH_IMPORT_ROOTS")
        assert spec.environment["BLEMISH_STORE"] == "s3://bucket/blemish"


def test_password_is_on_no_command_line(tmp_path: Path) -> None:
    stack = composed(tmp_path)

    password = stack.variables["REDIS_URL"].removeprefix("redis://:").partition("@")[0]
    assert len(password) >= 32
    for spec in itertools.chain(*stack.stages):
        assert password not in " ".join(spec.command) + spec.description + spec.remedy


def test_qdrant_on_path_is_preferred_and_has_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = composed(tmp_path).stages[1][0]
    qdrant = tmp_path / "bin" / "qdrant"
    qdrant.parent.mkdir()
    qdrant.write_text("#!/bin/sh\n")
    qdrant.chmod(0o755)
    monkeypatch.setenv("PATH", str(qdrant.parent))

    found = composed(tmp_path).stages[1][0]

    assert embedded.command[:4] == (sys.executable, "-P", "-m", "blemish_local.qdrant")
    assert embedded.command[4:] == (
        "--dir",
        str(tmp_path / "qdrant"),
        "--listen",
        "127.0.0.1:7001",
    )
    assert found.command == (str(qdrant),)
    assert found.environment["QDRANT__SERVICE__HOST"] == "127.0.0.1"
    ports = {
        found.environment["QDRANT__SERVICE__GRPC_PORT"],
        found.environment["QDRANT__SERVICE__HTTP_PORT"],
    }
    assert len(ports) == 2
    assert found.directory != embedded.directory
    assert found.environment["QDRANT__STORAGE__STORAGE_PATH"].startswith(str(found.directory))


def test_shell_script_keeps_every_character() -> None:
    variables = {"B": "it's $HOME; `x`", "A": "redis://:pw@host/0"}

    lines = stack.shell_script(variables).splitlines()

    assert [shlex.split(line) for line in lines] == [
        ["export", "A=redis://:pw@host/0"],
        ["export", "B=it's $HOME; `x`"],
    ]


@pytest.mark.parametrize(("grace", "grace_s"), [("", 10.0), ("60", 60.0), ("soon", 10.0)])
def test_server_is_given_its_own_grace_period_to_stop(tmp_path: Path, grace: str, grace_s: float) -> None:
    stack = composed(tmp_path, BLEMISH_GRACE_S=grace)
    server = next(spec for spec in stack.stages[-1] if spec.name == "server")
    assert server.grace_s > grace_s + 15  # the margin of the rest of its shutdown
    assert ServerSettings().grace_s == 10.0


def test_console_is_optional_and_reaches_the_server_on_this_machine(tmp_path: Path) -> None:
    options = resolve({"PATH": os.environ["PATH"]}, console=True)
    found = compose(options, DataDirectory(tmp_path), LISTEN)
    console = next(spec for spec in found.stages[-1] if spec.name == "console")
    assert console.is_optional
    assert "127.0.0.1:50051" in console.command
    assert found.console.startswith("http://127.0.0.1:")
    assert str(console.ready_file) in console.command


def test_console_trusts_the_certificate_of_the_server(tmp_path: Path) -> None:
    options = resolve({"PATH": os.environ["PATH"], "BLEMISH_TLS_CERTIFICATE": "/chain.pem"}, console=True)
    found = compose(options, DataDirectory(tmp_path), LISTEN)
    console = next(spec for spec in found.stages[-1] if spec.name == "console")
    assert console.command[console.command.index("--roots") + 1] == "/chain.pem"


def test_console_that_is_not_installed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "is_console_installed", lambda: False)
    options = resolve({"PATH": os.environ["PATH"]}, console=True)
    assert names(compose(options, DataDirectory(tmp_path), LISTEN))[-1] == {"worker", "server"}
