# SPDX-License-Identifier: Apache-2.0
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blemish_core.platform.errors import AlreadyExists, Corrupt, InvalidRequest, NotFound
from blemish_server.auth import access
from blemish_server.auth.access import Caller, Role
from blemish_server.auth.limits import CallerLimits
from blemish_server.scoring.batcher import Priority


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "callers.json"


def test_token_identifies_its_caller_until_revoked(file: Path) -> None:
    token = access.grant(file, "press-7", Role.CAMERA)
    access.grant(file, "mes", Role.SERVICE)
    assert access.read_callers(file)[access.digest(token)] == Caller("press-7", Role.CAMERA)
    assert token not in file.read_text()
    access.revoke(file, "press-7")
    assert [*access.read_callers(file).values()] == [Caller("mes", Role.SERVICE)]


def test_tokens_are_unique_and_long(file: Path) -> None:
    tokens = {access.grant(file, f"press-{number}", Role.CAMERA) for number in range(20)}
    assert len(tokens) == 20
    assert min(map(len, tokens)) > 43  # 256 bits in base64


def test_caller_gets_one_credential(file: Path) -> None:
    access.grant(file, "mes", Role.SERVICE)
    with pytest.raises(AlreadyExists, match="mes has a credential already, as service; revoke it first"):
        access.grant(file, "mes", Role.OPERATOR)
    assert [*access.read_callers(file).values()] == [Caller("mes", Role.SERVICE)]


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a\n", "x" * 64])
def test_name_must_be_an_id(file: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a valid id"):
        access.grant(file, name, Role.CAMERA)


def test_unknown_caller_cannot_be_revoked(file: Path) -> None:
    with pytest.raises(NotFound, match="there is no access file"):
        access.revoke(file, "mes")
    access.grant(file, "mes", Role.SERVICE)
    with pytest.raises(NotFound, match="has no credential of press-7; it has: mes"):
        access.revoke(file, "press-7")


def test_concurrent_grants_are_all_stored(file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = [*pool.map(lambda n: access.grant(file, f"press-{n}", Role.CAMERA), range(40))]
    assert {*map(access.digest, tokens)} == {*access.read_callers(file)}


def test_credential_without_priority_allows_the_highest(file: Path) -> None:
    token = access.grant(file, "mes", Role.SERVICE)
    assert "most_urgent" not in file.read_text(), "older servers reject unknown fields"
    assert access.read_callers(file)[access.digest(token)] == Caller(
        "mes", Role.SERVICE, Priority.LINE_STOP
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rubbish",
        "{}",
        '{"callers": {"mes": {"role": "admin", "token_sha256": "%s", "granted": "2026-01-01T00:00:00Z"}}}'
        % ("0" * 64),
        '{"callers": {"mes": {"role": "camera", "token_sha256": "abc", "granted": "2026-01-01T00:00Z"}}}',
    ],
)
def test_malformed_file_is_rejected_and_left_unchanged(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(Corrupt, match="is not a valid access file"):
        access.read_callers(file)
    with pytest.raises(Corrupt):
        access.grant(file, "mes", Role.SERVICE)
    assert file.read_text() == text


def test_limits_are_replaced_and_the_token_stays(tmp_path: Path) -> None:
    file = tmp_path / "callers.json"
    token = access.grant(file, "mes", Role.SERVICE, limits=CallerLimits(streams=3))
    assert access.read_callers(file)[access.digest(token)].limits == CallerLimits(streams=3)
    access.set_limits(file, "mes", CallerLimits(queued_jobs=1))
    assert access.read_callers(file)[access.digest(token)].limits == CallerLimits(queued_jobs=1)
    with pytest.raises(NotFound):
        access.set_limits(file, "nobody", CallerLimits())


def test_file_without_limits_can_be_read_by_older_servers(tmp_path: Path) -> None:
    file = tmp_path / "callers.json"
    access.grant(file, "mes", Role.SERVICE, limits=CallerLimits(streams=3))
    access.set_limits(file, "mes", CallerLimits())
    assert "limits" not in file.read_text()
