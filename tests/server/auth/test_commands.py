# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from blemish_server.auth import access
from blemish_server.auth.access import PRIORITIES, Caller, Role
from blemish_server.auth.commands import PriorityName, RoleName, app
from blemish_server.scoring.batcher import Priority


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "callers.json"
    monkeypatch.setenv("BLEMISH_ACCESS_FILE", str(path))
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_grant_prints_only_the_token_on_stdout(file: Path) -> None:
    result = run("grant", "mes", "--role", "service")
    assert result.exit_code == 0
    assert access.read_callers(file)[access.digest(result.stdout.strip())] == Caller("mes", Role.SERVICE)
    assert "mes may call as service" in result.stderr


def test_grant_limits_the_priority(file: Path) -> None:
    result = run("grant", "press-7", "--role", "camera", "--most-urgent", "backfill")
    granted = access.read_callers(file)[access.digest(result.stdout.strip())]
    assert granted == Caller("press-7", Role.CAMERA, Priority.BACKFILL)
    assert run("grant", "press-8", "--role", "camera", "--most-urgent", "now").exit_code == 2


def test_list_prints_a_line_per_credential(file: Path) -> None:
    run("grant", "mes", "--role", "service")
    assert run("list", "--file", str(file)).stdout.startswith("mes\tservice\tline-stop\t20")


def test_revoke_fails_for_a_revoked_credential(file: Path) -> None:
    run("grant", "mes", "--role", "service")
    assert run("revoke", "mes").exit_code == 0
    assert access.read_callers(file) == {}
    assert run("revoke", "mes").exit_code == 2


def test_access_file_must_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BLEMISH_ACCESS_FILE", raising=False)
    result = run("list")
    assert result.exit_code == 2
    assert "no access file was given; set --file or BLEMISH_ACCESS_FILE" in result.stderr


def test_missing_file_or_folder_is_reported(file: Path) -> None:
    result = run("list")
    assert result.exit_code == 2
    assert "there is no access file" in result.stderr
    result = run("grant", "mes", "--role", "camera", "--file", "/nowhere/callers.json")
    assert result.exit_code == 2
    assert "there is no folder /nowhere" in result.stderr


def test_command_line_offers_every_role_and_priority() -> None:
    assert [role.value for role in RoleName] == [role.word for role in Role]
    assert [priority.value for priority in PriorityName] == [*PRIORITIES]


def test_limits_are_set_listed_and_removed(file: Path) -> None:
    run("grant", "mes", "--role", "service", "--streams", "4", "--requests-per-second", "2.5")
    assert run("list").stdout.rstrip("\n").endswith("\tstreams=4 requests_per_second=2.5")
    assert run("limit", "mes", "--bytes-per-second", "1000000", "--queued-jobs", "2").exit_code == 0
    assert run("list").stdout.rstrip("\n").endswith("\tbytes_per_second=1000000 queued_jobs=2")
    removed = run("limit", "mes")
    assert "limits of mes: none" in removed.stderr
    assert run("list").stdout.endswith("\t\n")
    assert run("limit", "mes", "--streams", "0").exit_code == 2
