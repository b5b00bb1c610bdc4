# SPDX-License-Identifier: Apache-2.0
"""Aliases: second names of collections, kept in one file and changed all or nothing."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from qdrant_client import grpc as pb

from blemish_core.platform.files import atomic_write
from blemish_local.qdrant.errors import AlreadyExists, BadRequest, Missing, StoreUnusable
from blemish_local.qdrant.storage import names

Aliases = Mapping[str, str]
"""The collection that each alias stands for."""


def changed(
    aliases: Aliases, actions: Iterable[pb.AliasOperations], collections: Collection[str]
) -> Aliases:
    """Return what ``aliases`` become; an alias that is created anew moves to its collection.

    Raises:
        BadRequest: if an action is empty, or a name is none.
        Missing: if there is no such collection, or no alias to rename.
        AlreadyExists: if a collection has the name.
    """
    after = dict(aliases)
    for action in actions:
        match action.WhichOneof("action"):
            case "create_alias":
                create = action.create_alias
                if create.collection_name not in collections:
                    raise Missing(f"there is no collection {create.collection_name!r}")
                after[_free(create.alias_name, collections)] = create.collection_name
            case "rename_alias":
                rename = action.rename_alias
                if rename.old_alias_name not in after:
                    raise Missing(f"there is no alias {rename.old_alias_name!r}")
                new = _free(rename.new_alias_name, collections)
                after[new] = after.pop(rename.old_alias_name)
            case "delete_alias":
                after.pop(action.delete_alias.alias_name, None)
            case _:
                raise BadRequest("an action on aliases is empty: leave it out")
    return after


def read(file: Path, collections: Collection[str]) -> Aliases:
    """Read the aliases of the ``collections`` that are there.

    A collection goes before its aliases do, so a crash between the two may leave some over.

    Raises:
        StoreUnusable: if the file is damaged.
    """
    try:
        kept = _checked(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StoreUnusable(
            f"{file} is damaged ({error}): restore it, or remove it and set the aliases again"
        ) from error
    return {alias: name for alias, name in kept.items() if name in collections}


def write(file: Path, aliases: Aliases) -> None:
    atomic_write(file, json.dumps(aliases, indent=1).encode())


def _checked(kept: object) -> dict[str, str]:
    if not isinstance(kept, dict) or not all(isinstance(name, str) for name in kept.values()):
        raise ValueError("it holds something else than names")
    return kept


def _free(alias: str, collections: Collection[str]) -> str:
    if alias in collections:
        raise AlreadyExists(f"{alias!r} is a collection and cannot be an alias too")
    return names.checked(alias, "an alias")
