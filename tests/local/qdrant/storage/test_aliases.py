# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import AlreadyExists, BadRequest, Missing, StoreUnusable
from blemish_local.qdrant.storage import aliases

COLLECTIONS = ["a", "b"]


def create(alias: str, of: str) -> pb.AliasOperations:
    return pb.AliasOperations(create_alias=pb.CreateAlias(alias_name=alias, collection_name=of))


def rename(old: str, new: str) -> pb.AliasOperations:
    return pb.AliasOperations(rename_alias=pb.RenameAlias(old_alias_name=old, new_alias_name=new))


def delete(alias: str) -> pb.AliasOperations:
    return pb.AliasOperations(delete_alias=pb.DeleteAlias(alias_name=alias))


def test_actions_follow_one_another() -> None:
    actions = [create("x", "a"), rename("x", "y"), create("x", "b"), delete("none")]
    assert aliases.changed({}, actions, COLLECTIONS) == {"y": "a", "x": "b"}


def test_an_alias_moves_to_another_collection() -> None:
    assert aliases.changed({"x": "a"}, [create("x", "b")], COLLECTIONS) == {"x": "b"}


def test_an_alias_takes_the_place_of_another_when_renamed() -> None:
    before = {"x": "a", "y": "b"}
    assert aliases.changed(before, [rename("x", "y")], COLLECTIONS) == {"y": "a"}
    assert before == {"x": "a", "y": "b"}


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (create("x", "none"), Missing),
        (create("x", "old"), Missing),
        (create("b", "a"), AlreadyExists),
        (create("../x", "a"), BadRequest),
        (rename("none", "x"), Missing),
        (rename("old", "b"), AlreadyExists),
        (rename("old", ""), BadRequest),
        (pb.AliasOperations(), BadRequest),
    ],
)
def test_what_cannot_be_is_refused(action: pb.AliasOperations, error: type[Exception]) -> None:
    with pytest.raises(error):
        aliases.changed({"old": "a"}, [create("fine", "a"), action], COLLECTIONS)


def test_they_are_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    assert aliases.read(file, COLLECTIONS) == {}
    aliases.write(file, {"x": "a"})
    aliases.write(file, {"x": "a", "y": "b"})
    assert aliases.read(file, COLLECTIONS) == {"x": "a", "y": "b"}
    assert [path.name for path in tmp_path.iterdir()] == ["aliases.json"]


def test_those_of_a_collection_that_is_gone_are_gone(tmp_path: Path) -> None:
    aliases.write(tmp_path / "f", {"x": "a", "y": "b"})
    assert aliases.read(tmp_path / "f", ["b"]) == {"y": "b"}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b'{"x": 1}'])
def test_a_damaged_file_is_named_with_the_cure(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "aliases.json"
    file.write_bytes(content)
    with pytest.raises(StoreUnusable, match=r"aliases\.json is damaged .*restore it"):
        aliases.read(file, COLLECTIONS)
