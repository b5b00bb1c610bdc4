# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blemish_local import commands, options
from blemish_local.__main__ import app
from blemish_local.address import Address
from blemish_local.options import StackOptions


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[StackOptions]:
    """Record the options of each stack that the command line launches."""
    calls: list[StackOptions] = []

    def launch(given: StackOptions) -> int:
        calls.append(given)
        return 0

    monkeypatch.setattr(commands, "launch", launch)
    for name in ("BLEMISH_LISTEN", "BLEMISH_IMPORT_ROOTS", "REDIS_URL", "QDRANT_URL", "QDRANT_GRPC_PORT"):
        monkeypatch.delenv(name, raising=False)
    return calls


def test_defaults_are_closed_to_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = options.resolve({"HOME": "/home/user"})
    assert found == StackOptions(
        data=tmp_path / "blemish-data",
        listen=Address("127.0.0.1", 50051),
        import_roots=(),
        address_file=None,
        redis_url=None,
        qdrant_url=None,
        qdrant_grpc_port=6334,
        qdrant_proxy="",
        stop_with_stdin=False,
        console=False,
        quiet=False,
        environment={"HOME": "/home/user"},
    )


def test_arguments_override_the_environment(
    tmp_path: Path, launched: list[StackOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    inherited, first, second = (tmp_path / name for name in ("inherited", "first", "second"))
    for folder in (inherited, first, second):
        folder.mkdir()
    monkeypatch.setenv("BLEMISH_LISTEN", "0.0.0.0:1")
    monkeypatch.setenv("BLEMISH_IMPORT_ROOTS", f"{inherited}{os.pathsep}")
    roots = ["--import-root", str(first), "--import-root", str(second)]

    assert CliRunner().invoke(app, ["up", "--listen", "[::1]:0", *roots]).exit_code == 0
    assert CliRunner().invoke(app, ["up"]).exit_code == 0

    by_argument, by_environment = launched
    assert by_argument.listen == Address("::1", 0)
    assert by_argument.import_roots == (first, second)
    assert by_environment.listen == Address("0.0.0.0", 1)
    assert by_environment.import_roots == (inherited,)


def test_empty_variables_count_as_unset(
    launched: list[StackOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BLEMISH_LISTEN", "BLEMISH_IMPORT_ROOTS", "REDIS_URL", "QDRANT_URL", "QDRANT_GRPC_PORT"):
        monkeypatch.setenv(name, "")
    assert CliRunner().invoke(app, ["up"]).exit_code == 0
    (found,) = launched
    assert found.listen == Address("127.0.0.1", 50051)
    assert found.import_roots == ()
    assert (found.redis_url, found.qdrant_url, found.qdrant_grpc_port) == (None, None, 6334)


def test_external_redis_and_qdrant_come_from_the_environment() -> None:
    found = options.resolve(
        {
            "REDIS_URL": "rediss://:secret@broker:6380/2",
            "QDRANT_URL": "https://vectors.example:6333",
            "QDRANT_GRPC_PORT": "7334",
        },
    )
    assert found.redis_url == "rediss://:secret@broker:6380/2"
    assert found.qdrant_url == "https://vectors.example:6333"
    assert found.qdrant_grpc_port == 7334


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        ({"listen": "50051"}, {}, "for example 127.0.0.1:50051"),
        ({"listen": "::1:50051"}, {}, "[::1]:50051"),
        ({"listen": "127.0.0.1:65536"}, {}, "is not HOST:PORT"),
        ({"import_roots": [Path("/no/such/folder")]}, {}, "/no/such/folder is not a folder"),
        ({"address_file": Path("/no/such/folder/address")}, {}, "cannot be written"),
        ({"address_file": Path()}, {}, "cannot be written"),
        ({}, {"REDIS_URL": "unix:///redis.sock?secret"}, "such as redis://HOST:6379/0"),
        ({}, {"REDIS_URL": "redis://:secret@host:port"}, "such as redis://HOST:6379/0"),
        ({}, {"QDRANT_URL": "secret:6333"}, "such as http://HOST:6333"),
        ({}, {"QDRANT_URL": "http://q", "QDRANT_GRPC_PORT": "x"}, "a number such as 6334"),
    ],
)
def test_unusable_values_are_rejected_with_a_remedy(
    arguments: dict[str, Any], environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(ValueError) as caught:
        options.resolve(environment, **arguments)
    assert sentence in str(caught.value)
    assert "secret" not in str(caught.value)


def test_import_root_must_not_contain_the_separator(tmp_path: Path) -> None:
    folder = tmp_path / f"a{os.pathsep}b"
    folder.mkdir()
    with pytest.raises(ValueError, match="separates roots"):
        options.resolve({}, import_roots=[folder])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["up", "--listen", "nowhere"], "blemish up: 'nowhere' is not HOST:PORT"),
        (["up", "--port", "1"], "No such option: --port"),
        ([], "Usage: blemish"),
    ],
)
def test_wrong_usage_exits_with_2(launched: list[StackOptions], arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(app, arguments, prog_name="blemish")
    assert result.exit_code == 2
    assert text in result.output
    assert launched == []
