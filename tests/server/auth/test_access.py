# SPDX-License-Identifier: Apache-2.0
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blemish_core.platform.errors import AlreadyExists, Corrupt, InvalidRequest, NotFound
from blemish_server.auth import access
from blemish_server.auth.access import Caller, Role
from blemish_server.scoring.batcher import Priority


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "callers.json"


def test_a_token_says_who_calls_until_it_is_revoked(file: Path) -> None:
    token = access.grant(file, "press-7", Role.CAMERA)
    access.grant(file, "mes", Role.SERVICE)
    assert access.read(file)[access.digest(token)] == Caller("press-7", Role.CAMERA)
    assert token not in file.read_text()
    access.revoke(file, "press-7")
    assert [*access.read(file).values()] == [Caller("mes", Role.SERVICE)]


def test_no_two_tokens_are_alike(file: Path) -> None:
    tokens = {access.grant(file, f"press-{number}", Role.CAMERA) for number in range(20)}
    assert len(tokens) == 20
    assert min(map(len, tokens)) > 43  # 256 bits in base64


def test_a_name_is_given_once(file: Path) -> None:
    access.grant(file, "mes", Role.SERVICE)
    with pytest.raises(AlreadyExists, match="mes is there already, as service; revoke it first"):
        access.grant(file, "mes", Role.OPERATOR)
    assert [*access.read(file).values()] == [Caller("mes", Role.SERVICE)]


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a\n", "x" * 64])
def test_a_name_is_an_id(file: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a valid id"):
        access.grant(file, name, Role.CAMERA)


def test_who_is_not_there_cannot_be_revoked(file: Path) -> None:
    with pytest.raises(NotFound, match="there is no file of callers"):
        access.revoke(file, "mes")
    access.grant(file, "mes", Role.SERVICE)
    with pytest.raises(NotFound, match="has no caller press-7; those it has: mes"):
        access.revoke(file, "press-7")


def test_nobody_who_grants_at_once_is_lost(file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = [*pool.map(lambda n: access.grant(file, f"press-{n}", Role.CAMERA), range(40))]
    assert {*map(access.digest, tokens)} == {*access.read(file)}


def test_a_file_from_before_priorities_were_granted_allows_all(file: Path) -> None:
    token = access.grant(file, "mes", Role.SERVICE)
    assert "most_urgent" not in file.read_text(), "which a server of before would refuse"
    assert access.read(file)[access.digest(token)] == Caller("mes", Role.SERVICE, Priority.LINE_STOP)


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
def test_what_is_no_file_of_callers_is_refused_and_left_alone(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(Corrupt, match="is no file of callers"):
        access.read(file)
    with pytest.raises(Corrupt):
        access.grant(file, "mes", Role.SERVICE)
    assert file.read_text() == text
