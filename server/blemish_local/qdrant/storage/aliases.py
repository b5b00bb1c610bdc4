# SPDX-License-Identifier: Apache-2.0
"""Aliases: alternative names of collections, kept in one file and changed atomically."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from qdrant_client import grpc as pb

from blemish_core.platform.files import atomic_write
from blemish_local.qdrant.errors import BadRequest, Missing, NameTaken, StoreUnusable, Unsupported
from blemish_local.qdrant.storage import names

Aliases = Mapping[str, str]
"""The collection of each alias."""


def changed(
    aliases: Aliases, actions: Iterable[pb.AliasOperations], collections: Collection[str]
) -> Aliases:
    """Return the aliases after the actions; creating an existing alias moves it.

    Raises:
        BadRequest: if an action is empty, or a name is not valid.
        Missing: if a collection does not exist.
        NameTaken: if a collection uses the alias as its name.
        Unsupported: for other actions.
    """
    after = dict(aliases)
    for action in actions:
        match action.WhichOneof("action"):
            case "create_alias":
                alias, name = action.create_alias.alias_name, action.create_alias.collection_name
                if name not in collections:
                    raise Missing(f"there is no collection {name!r}; create it first")
                if alias in collections:
                    raise NameTaken(f"{alias!r} is the name of a collection; choose another alias")
                after[names.checked(alias, "an alias")] = name
            case "delete_alias":
                after.pop(action.delete_alias.alias_name, None)
            case None:
                raise BadRequest("an action on aliases is empty; leave it out")
            case kind:
                raise Unsupported(f"the action {kind}")
    return after


def read(file: Path, collections: Collection[str]) -> Aliases:
    """Read the aliases of existing collections.

    A collection is removed before its aliases, so a crash in between may leave stale ones.

    Raises:
        StoreUnusable: if the file is damaged.
    """
    try:
        stored = _checked(json.loads(file.read_bytes()))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StoreUnusable(
            f"{file} is damaged ({error}); restore it, or remove it and set the aliases again"
        ) from error
    return {alias: name for alias, name in stored.items() if name in collections}


def write(file: Path, aliases: Aliases) -> None:
    """Replace the file durably."""
    atomic_write(file, json.dumps(aliases, indent=1).encode())


def _checked(stored: object) -> dict[str, str]:
    if not isinstance(stored, dict) or not all(isinstance(name, str) for name in stored.values()):
        raise ValueError("it contains more than names")
    return stored
