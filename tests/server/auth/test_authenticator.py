# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from blemish.v1 import access_pb2
from blemish.v1.model_pb2 import UpdateCalibrationRequest
from blemish_core.platform.errors import BlemishError, Corrupt, NotFound, PermissionDenied, Unauthenticated
from blemish_server.auth import access
from blemish_server.auth.access import ANONYMOUS, Caller, Role
from blemish_server.auth.authenticator import Authenticator
from blemish_server.converters.models import parse_calibration_change
from blemish_server.converters.server import ROLES

SCORE = "/blemish.v1.InspectionService/Score"
SEARCH = "/blemish.v1.SearchService/Search"
TRAIN = "/blemish.v1.JobService/CreateJob"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "callers.json"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose only element is the time."""
    now = [100.0]
    monkeypatch.setattr("blemish_server.auth.authenticator.time.monotonic", lambda: now[0])
    return now


def bearer(token: str) -> dict[str, str | bytes]:
    return {"authorization": f"Bearer {token}"}


def test_roles_match_the_contract() -> None:
    assert {role.name: ROLES.to_proto(role) for role in Role} == {
        name.removeprefix("ROLE_"): number for name, number in access_pb2.Role.items() if number
    }
    assert all(ROLES.to_proto(role) == int(role) for role in Role), "roles are compared by their number"


def test_every_call_is_authorized_without_an_access_file() -> None:
    authenticator = Authenticator(None)
    assert authenticator.authorize(TRAIN, {}) == ANONYMOUS
    assert authenticator.authorize(TRAIN, bearer("any token")) == ANONYMOUS


@pytest.mark.parametrize(
    ("role", "admitted"),
    [
        (Role.CAMERA, {SCORE}),
        (Role.SERVICE, {SCORE, SEARCH}),
        (Role.OPERATOR, {SCORE, SEARCH, TRAIN, "/another.Service/Call"}),
    ],
)
def test_role_includes_the_methods_of_lower_roles(file: Path, role: Role, admitted: set[str]) -> None:
    token = access.grant(file, "mes", role)
    authenticator = Authenticator(file)
    for method in (SCORE, SEARCH, TRAIN, "/another.Service/Call"):
        if method in admitted:
            assert authenticator.authorize(method, bearer(token)) == Caller("mes", role)
        else:
            with pytest.raises(PermissionDenied, match=rf"mes has the role {role.word}, but \w+ needs \w+"):
                authenticator.authorize(method, bearer(token))


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"authorization": ""},
        {"authorization": "TOKEN"},
        {"authorization": "Basic TOKEN"},
        {"authorization": b"Bearer TOKEN"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer another"},
        {"authorization": "Bearer \u20ac\ud800"},
    ],
)
def test_call_without_a_valid_token_is_rejected(file: Path, metadata: dict[str, str | bytes]) -> None:
    token = access.grant(file, "mes", Role.SERVICE)
    authenticator = Authenticator(file)
    sent = {
        name: value.replace("TOKEN", token) if isinstance(value, str) else value
        for name, value in metadata.items()
    }
    with pytest.raises(Unauthenticated) as rejected:
        authenticator.authorize(SCORE, sent)
    assert token not in str(rejected.value)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_scheme_is_not_case_sensitive(file: Path, scheme: str) -> None:
    token = access.grant(file, "mes", Role.SERVICE)
    assert Authenticator(file).authorize(SCORE, {"authorization": f"{scheme} {token}"}).name == "mes"


def test_changes_of_the_file_apply_within_a_second(file: Path, clock: list[float]) -> None:
    old = access.grant(file, "press-7", Role.CAMERA)
    authenticator = Authenticator(file)
    access.revoke(file, "press-7")
    new = access.grant(file, "press-7", Role.OPERATOR)
    clock[0] += 1
    with pytest.raises(Unauthenticated, match="revoked"):
        authenticator.authorize(SCORE, bearer(old))
    assert authenticator.authorize(TRAIN, bearer(new)) == Caller("press-7", Role.OPERATOR)


@pytest.mark.parametrize("damage", [lambda file: file.write_text("rubbish"), Path.unlink])
def test_unreadable_file_keeps_the_callers(file: Path, clock: list[float], damage: "object") -> None:
    token = access.grant(file, "mes", Role.SERVICE)
    authenticator = Authenticator(file)
    content = file.read_bytes()
    assert callable(damage)
    damage(file)
    clock[0] += 1
    assert authenticator.authorize(SEARCH, bearer(token)).name == "mes"
    with pytest.raises(Unauthenticated):
        authenticator.authorize(SEARCH, bearer("another"))
    file.write_bytes(content)
    access.revoke(file, "mes")
    clock[0] += 1
    with pytest.raises(Unauthenticated):
        authenticator.authorize(SEARCH, bearer(token))


@pytest.mark.parametrize(("text", "error"), [(None, NotFound), ("rubbish", Corrupt)])
def test_missing_or_malformed_file_is_rejected(
    file: Path, text: str | None, error: type[BlemishError]
) -> None:
    if text is not None:
        file.write_text(text)
    with pytest.raises(error):
        Authenticator(file)


@pytest.mark.parametrize(
    ("author", "caller", "kept"),
    [
        ("maria", ANONYMOUS, "maria"),
        ("maria", Caller("office", Role.OPERATOR), "maria (office)"),
        ("", Caller("office", Role.OPERATOR), "office"),
        ("office", Caller("office", Role.OPERATOR), "office"),
    ],
)
def test_author_of_a_calibration_change_is_the_caller(author: str, caller: Caller, kept: str) -> None:
    request = UpdateCalibrationRequest(author=author, threshold=1.0)
    assert parse_calibration_change(request, caller).author == kept
