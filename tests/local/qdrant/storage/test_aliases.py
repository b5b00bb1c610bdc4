# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Missing, NameTaken, StoreUnusable, Unsupported
from blemish_local.qdrant.storage import aliases

COLLECTIONS = ["a", "b"]


def create(alias: str, name: str) -> pb.AliasOperations:
    return pb.AliasOperations(create_alias=pb.CreateAlias(alias_name=alias, collection_name=name))


def delete(alias: str) -> pb.AliasOperations:
    return pb.AliasOperations(delete_alias=pb.DeleteAlias(alias_name=alias))


def test_actions_apply_in_order() -> None:
    actions = [create("x", "a"), delete("x"), create("y", "b"), delete("none")]
    assert aliases.changed({}, actions, COLLECTIONS) == {"y": "b"}


def test_creating_an_existing_alias_moves_it() -> None:
    before = {"x": "a"}
    assert aliases.changed(before, [create("x", "b")], COLLECTIONS) == {"x": "b"}
    assert before == {"x": "a"}


@pytest.mark.parametrize(
    ("action", "error"),
    [
        (create("x", "none"), Missing),
        (create("x", "old"), Missing),
        (create("b", "a"), NameTaken),
        (create("../x", "a"), BadRequest),
        (pb.AliasOperations(), BadRequest),
        (pb.AliasOperations(rename_alias=pb.RenameAlias(old_alias_name="old")), Unsupported),
    ],
)
def test_invalid_action_is_rejected(action: pb.AliasOperations, error: type[Exception]) -> None:
    with pytest.raises(error):
        aliases.changed({"old": "a"}, [create("fine", "a"), action], COLLECTIONS)


def test_written_aliases_are_read_back(tmp_path: Path) -> None:
    file = tmp_path / "aliases.json"
    assert aliases.read(file, COLLECTIONS) == {}
    aliases.write(file, {"x": "a"})
    aliases.write(file, {"x": "a", "y": "b"})
    assert aliases.read(file, COLLECTIONS) == {"x": "a", "y": "b"}
    assert [path.name for path in tmp_path.iterdir()] == ["aliases.json"]


def test_aliases_of_a_removed_collection_are_dropped(tmp_path: Path) -> None:
    aliases.write(tmp_path / "f", {"x": "a", "y": "b"})
    assert aliases.read(tmp_path / "f", ["b"]) == {"y": "b"}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[1]", b'{"x": 1}'])
def test_damaged_file_is_reported_with_a_remedy(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "aliases.json"
    file.write_bytes(content)
    with pytest.raises(StoreUnusable, match=r"aliases\.json is damaged .*restore it"):
        aliases.read(file, COLLECTIONS)
