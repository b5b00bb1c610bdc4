# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest

from blemish_local.address import Address
from blemish_local.settings import parse


def test_without_arguments_nothing_is_open_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    settings = parse(["up"], {"HOME": "/home/someone"})

    assert settings.data == tmp_path / "blemish-data"
    assert settings.listen == Address("127.0.0.1", 50051)
    assert settings.import_roots == ()
    assert settings.address_file is None
    assert settings.redis_url is None
    assert settings.qdrant_url is None
    assert not settings.quiet
    assert settings.environment == {"HOME": "/home/someone"}


def test_arguments_win_over_the_environment(tmp_path: Path) -> None:
    inherited, first, second = (tmp_path / name for name in ("inherited", "first", "second"))
    for folder in (inherited, first, second):
        folder.mkdir()
    environment = {"BLEMISH_LISTEN": "0.0.0.0:1", "BLEMISH_IMPORT_ROOTS": str(inherited)}

    told = parse(
        ["up", "--listen", "[::1]:0", "--import-root", str(first), "--import-root", str(second)],
        environment,
    )
    untold = parse(["up"], environment)

    assert told.listen == Address("::1", 0)
    assert told.import_roots == (first, second)
    assert untold.listen == Address("0.0.0.0", 1)
    assert untold.import_roots == (inherited,)


def test_a_redis_and_a_qdrant_that_run_elsewhere() -> None:
    settings = parse(
        ["up"],
        {
            "REDIS_URL": "rediss://:secret@broker:6380/2",
            "QDRANT_URL": "https://vectors.example:6333",
            "QDRANT_GRPC_PORT": "7334",
        },
    )

    assert settings.redis_url == "rediss://:secret@broker:6380/2"
    assert settings.qdrant_url == "https://vectors.example:6333"
    assert settings.qdrant_grpc_port == 7334


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["--listen", "50051"], {}, "for example 127.0.0.1:50051"),
        (["--listen", "::1:50051"], {}, "[::1]:50051"),
        (["--listen", "127.0.0.1:65536"], {}, "is not HOST:PORT"),
        (["--import-root", "/no/such/folder"], {}, "/no/such/folder is not a folder"),
        (["--address-file", "/no/such/folder/address"], {}, "cannot be written"),
        (["--address-file", "."], {}, "cannot be written"),
        (["--port", "1"], {}, "unrecognized arguments: --port"),
        ([], {"BLEMISH_LISTEN": "somewhere"}, "'somewhere' is not HOST:PORT"),
        ([], {"REDIS_URL": "unix:///redis.sock?secret"}, "such as redis://HOST:6379/0"),
        ([], {"REDIS_URL": "redis://:secret@host:port"}, "such as redis://HOST:6379/0"),
        ([], {"QDRANT_URL": "secret:6333"}, "such as http://HOST:6333"),
        ([], {"QDRANT_URL": "http://q", "QDRANT_GRPC_PORT": "x"}, "not a port such as 6334"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_sentence_that_mends_it(
    arguments: list[str],
    environment: dict[str, str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["up", *arguments], environment)

    complaint = capsys.readouterr().err
    assert stop.value.code == 2
    assert sentence in complaint
    assert "secret" not in complaint


def test_an_import_root_cannot_smuggle_in_a_second_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / f"a{os.pathsep}b"
    folder.mkdir()

    with pytest.raises(SystemExit):
        parse(["up", "--import-root", str(folder)], {})

    assert "separates roots" in capsys.readouterr().err


def test_without_a_command_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse([], {})

    assert stop.value.code == 2
    assert "usage: blemish" in capsys.readouterr().err
