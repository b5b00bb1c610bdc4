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


def composed(tmp_path: Path, import_roots: Sequence[Path] = (), **environment: str) -> Stack:
    environment.setdefault("PATH", os.environ["PATH"])
    return compose(resolve(environment, import_roots=import_roots), DataDirectory(tmp_path), LISTEN)


def names(stack: Stack) -> list[set[str]]:
    return [{part.name for part in stage} for stage in stack.stages]


def test_the_broker_starts_first_and_the_worker_beside_the_server(tmp_path: Path) -> None:
    stack = composed(tmp_path, [tmp_path], LANG="C")

    assert names(stack) == [{"redis"}, {"qdrant"}, {"worker", "server"}]
    assert stack.given == ()
    for part in stack.stages[-1]:
        assert part.environment["LANG"] == "C"
        assert part.environment["BLEMISH_LISTEN"] == "0.0.0.0:50051"
        assert part.environment["BLEMISH_STORE"] == str(tmp_path / "store")
        assert part.environment["BLEMISH_IMPORT_ROOTS"] == str(tmp_path)
        assert part.environment["REDIS_URL"].startswith("redis://:")
        assert part.environment["REDIS_URL"].endswith("@127.0.0.1:7000/0")
        assert part.environment["QDRANT_URL"] == "http://127.0.0.1:7001"
        assert part.environment["QDRANT_GRPC_PORT"] == "7001"
    worker = next(part for part in stack.stages[-1] if part.name == "worker")
    assert worker.environment["BLEMISH_READY_FILE"] == str(worker.ready_file)


def test_what_runs_elsewhere_is_not_started_and_its_url_passed_on_unchanged(
    tmp_path: Path,
) -> None:
    stack = composed(
        tmp_path,
        REDIS_URL="redis://user:secret@broker/3",
        QDRANT_URL="http://vectors:6333",
    )

    assert names(stack) == [{"worker", "server"}]
    assert [given.name for given in stack.given] == ["redis", "qdrant"]
    assert "broker:6379" in stack.given[0].cure
    assert "vectors:6334" in stack.given[1].cure
    assert not any("secret" in given.where + given.cure for given in stack.given)
    for part in stack.stages[0]:
        assert part.environment["REDIS_URL"] == "redis://user:secret@broker/3"
        assert part.environment["QDRANT_URL"] == "http://vectors:6333"
        assert part.environment["QDRANT_GRPC_PORT"] == "6334"
    assert not (tmp_path / "redis").exists()


def test_nothing_may_be_imported_and_the_store_be_named_elsewhere(tmp_path: Path) -> None:
    stack = composed(tmp_path, BLEMISH_STORE="s3://bucket/blemish", BLEMISH_IMPORT_ROOTS="")

    assert stack.store == "s3://bucket/blemish"
    for part in stack.stages[-1]:
        assert not part.environment.get("BLEMISH_IMPORT_ROOTS")
        assert part.environment["BLEMISH_STORE"] == "s3://bucket/blemish"


def test_the_password_stands_on_no_command_line(tmp_path: Path) -> None:
    stack = composed(tmp_path)

    password = stack.variables["REDIS_URL"].removeprefix("redis://:").partition("@")[0]
    assert len(password) >= 32
    for part in itertools.chain(*stack.stages):
        assert password not in " ".join(part.command) + part.what + part.cure


def test_a_qdrant_on_the_path_wins_and_keeps_its_own_folder(
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


def test_the_shell_script_keeps_every_character() -> None:
    variables = {"B": "it's $HOME; `x`", "A": "redis://:pw@host/0"}

    lines = stack.shell_script(variables).splitlines()

    assert [shlex.split(line) for line in lines] == [
        ["export", "A=redis://:pw@host/0"],
        ["export", "B=it's $HOME; `x`"],
    ]


@pytest.mark.parametrize(("told", "grace_s"), [("", 10.0), ("60", 60.0), ("soon", 10.0)])
def test_the_server_is_left_the_time_that_it_leaves_its_requests(
    tmp_path: Path, told: str, grace_s: float
) -> None:
    stack = composed(tmp_path, BLEMISH_GRACE_S=told)
    server = next(part for part in stack.stages[-1] if part.name == "server")
    assert server.grace_s > grace_s + 15  # it keeps frames and ends its lanes beside
    assert ServerSettings().grace_s == 10.0
