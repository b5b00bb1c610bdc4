# SPDX-License-Identifier: Apache-2.0
"""The directory of one embedded Qdrant: its collections and their aliases.

``collections/NAME/collection.pb`` is the request that made a collection and is written last, so
a folder without it is one that was not finished, or one whose removal was not.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError
from qdrant_client import grpc as pb

from blemish_core.platform.files import atomic_write, fsync, is_staged
from blemish_local.qdrant.errors import AlreadyExists, EngineFailed, Missing, Refusal, StoreUnusable
from blemish_local.qdrant.storage import aliases, names
from blemish_local.qdrant.storage.aliases import Aliases
from blemish_local.qdrant.storage.collection import Collection
from blemish_local.qdrant.translation import schema

_META = Path("collection.pb")
_SHARD = "shard"

log = structlog.get_logger(__name__)


class Store:
    """Not safe for threads. ``directory`` must be held by this process alone; see lock.py."""

    def __init__(self, directory: Path) -> None:
        """Open everything in ``directory``.

        Raises:
            StoreUnusable: if a collection or the aliases cannot be read.
        """
        self._folders = directory / "collections"
        self._aliases_file = directory / "aliases.json"
        try:
            self._folders.mkdir(parents=True, exist_ok=True)
            self._collections = dict(_loaded(self._folders))
            self._aliases = aliases.read(self._aliases_file, self._collections)
        except OSError as error:
            raise StoreUnusable(
                f"{error.filename} cannot be used ({error.strerror}): "
                "mend that or choose another directory with --dir"
            ) from error

    @property
    def names(self) -> list[str]:
        return list(self._collections)

    @property
    def aliases(self) -> Aliases:
        return self._aliases

    def find(self, name: str) -> Collection:
        """Return the collection of that name or alias.

        Raises:
            Missing: if there is none.
        """
        try:
            return self._collections[self._aliases.get(name, name)]
        except KeyError:
            raise Missing(f"there is no collection {name[:80]!r}: create it first") from None

    def __contains__(self, name: str) -> bool:
        return self._aliases.get(name, name) in self._collections

    def create(self, asked: pb.CreateCollection) -> None:
        """Make a collection.

        Raises:
            Refusal: if its name is taken or none, or its vectors cannot be.
        """
        name = names.checked(asked.collection_name, "a collection")
        if name in self:
            raise AlreadyExists(f"there is a collection or an alias {name!r} already")
        folder = self._folders / name
        try:
            folder.mkdir()
        except FileExistsError as error:
            # Where the file system takes A and a for one name.
            raise AlreadyExists(f"there is a collection {name!r} in another spelling") from error
        try:
            collection = Collection.create(folder / _SHARD, asked)
            atomic_write(folder / _META, asked.SerializeToString())
            fsync(self._folders)
        except BaseException:
            shutil.rmtree(folder)
            raise
        self._collections[name] = collection

    def update(self, request: pb.UpdateCollection) -> None:
        """Change the settings of a collection.

        Raises:
            Refusal: if there is none, or a setting is not served.
        """
        name = request.collection_name
        collection = self.find(name)
        asked = schema.changed(collection.asked, request)
        atomic_write(self._folders / self._aliases.get(name, name) / _META, asked.SerializeToString())
        collection.change(asked)

    def drop(self, name: str) -> bool:
        """Remove a collection with its aliases; return whether there was one. An alias is none."""
        if name not in self._collections:
            return False
        folder = self._folders / name
        (folder / _META).unlink()
        fsync(folder)
        # From here on it is gone: what follows tidies up, and if need be the next start does.
        collection = self._collections.pop(name)
        self._keep({alias: of for alias, of in self._aliases.items() if of != name})
        with contextlib.suppress(EngineFailed):
            collection.close()
        shutil.rmtree(folder)
        return True

    def change_aliases(self, actions: Iterable[pb.AliasOperations]) -> None:
        """Carry out all actions, or raise Refusal and none."""
        self._keep(aliases.changed(self._aliases, actions, self._collections))

    def settle(self, *, quiet_s: float = 0.0, most_s: float = 0.0, most_points: int = 0) -> None:
        """Merge and flush what changed since the last time; what fails is tried again.

        Nothing is answered meanwhile, so it waits until a collection was not written to nor searched for
        ``quiet_s``, but for no longer than ``most_s`` and no more than ``most_points``.
        """
        for name, collection in self._collections.items():
            changes = collection.changes
            if changes is not None and changes.are_due(quiet_s, most_s, most_points):
                try:
                    collection.settle()
                except EngineFailed:
                    log.exception("a collection cannot be flushed", collection=name)

    def close(self) -> None:
        """Flush and close every collection.

        Raises:
            EngineFailed: if one could not be; what was acknowledged is in its log all the same.
        """
        failed = []
        for name, collection in self._collections.items():
            try:
                collection.close()
            except EngineFailed:
                log.exception("a collection cannot be closed", collection=name)
                failed.append(name)
        self._collections.clear()
        if failed:
            raise EngineFailed(f"not flushed: {', '.join(failed)}")

    def _keep(self, after: Aliases) -> None:
        if after != self._aliases:
            aliases.write(self._aliases_file, after)
            self._aliases = after


def _loaded(folders: Path) -> Iterator[tuple[str, Collection]]:
    for folder in sorted(folders.iterdir()):
        if not folder.is_dir():
            continue
        if not (folder / _META).exists():
            _remove_unfinished(folder)
            continue
        try:
            asked = pb.CreateCollection.FromString((folder / _META).read_bytes())
            yield folder.name, Collection.load(folder / _SHARD, asked)
        except (DecodeError, EngineFailed, Refusal) as error:
            raise StoreUnusable(
                f"the collection in {folder} cannot be opened ({error}): "
                "restore that folder from a backup or move it away"
            ) from error


def _remove_unfinished(folder: Path) -> None:
    # Never what somebody else put here.
    strange = sorted(
        entry.name for entry in folder.iterdir() if entry.name != _SHARD and not is_staged(entry, _META)
    )
    if strange:
        raise StoreUnusable(
            f"{folder} is no collection, it holds {strange[0]!r}: move it away, "
            "or choose another directory with --dir"
        )
    log.warning("an unfinished collection is removed", collection=folder.name)
    shutil.rmtree(folder)
