# SPDX-License-Identifier: Apache-2.0
"""The directory of one embedded Qdrant: its collections and their aliases.

``collections/NAME/collection.pb`` holds the request that created a collection. It is written last and
removed first, so a folder without it is a creation or removal that was not finished.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError
from qdrant_client import grpc as pb

from blemish_core.platform.files import atomic_write, fsync, is_staged
from blemish_local.qdrant.errors import (
    EngineFailed,
    Missing,
    NameTaken,
    NoSpace,
    RequestRejected,
    StoreUnusable,
)
from blemish_local.qdrant.storage import aliases, names
from blemish_local.qdrant.storage.aliases import Aliases
from blemish_local.qdrant.storage.collection import Collection

_META = Path("collection.pb")
_SHARD = "shard"

# The engine writes to files in memory. A write to one that the disk has no space for kills the process.
WRITE_BYTES = 64 << 20
"""Free space below which nothing is added, in bytes."""
DELETE_BYTES = 8 << 20
"""Free space below which nothing is deleted either, because the engine logs deletions."""

log = structlog.get_logger(__name__)


class CollectionStore:
    """The collections of a directory; not thread-safe.

    Only one process may open a directory; see lock.py.
    """

    def __init__(self, directory: Path) -> None:
        """Open all collections in the directory; on a full disk, as soon as it has space.

        Raises:
            StoreUnusable: if a collection or the aliases cannot be read.
        """
        self._folders = directory / "collections"
        self._aliases_file = directory / "aliases.json"
        self._collections: dict[str, Collection] = {}
        self._aliases: Aliases = {}
        self.is_open = False
        """False while the disk has no space to finish the writes that a crash interrupted."""
        with contextlib.suppress(NoSpace):
            self.open()

    def open(self) -> None:
        """Open all collections, unless they are open.

        Raises:
            StoreUnusable: if a collection or the aliases cannot be read.
            NoSpace: if the disk is full.
        """
        if self.is_open:
            return
        try:
            self._folders.mkdir(parents=True, exist_ok=True)
            self._require_space(DELETE_BYTES)
            self._collections = dict(_loaded(self._folders))
            self._aliases = aliases.read(self._aliases_file, self._collections)
        except OSError as error:
            raise StoreUnusable(
                f"{error.filename} cannot be used ({error.strerror}); "
                "repair it or choose another directory with --dir"
            ) from error
        self.is_open = True

    @property
    def names(self) -> list[str]:
        """Names of the collections.

        Raises:
            NoSpace: if they are not open, because the disk is full.
        """
        self.open()
        return list(self._collections)

    @property
    def aliases(self) -> Aliases:
        """Collections by alias.

        Raises:
            NoSpace: if they are not open, because the disk is full.
        """
        self.open()
        return self._aliases

    def find(self, name: str) -> Collection:
        """Return the collection with a name or alias.

        Raises:
            Missing: if it does not exist.
            NoSpace: if the collections are not open, because the disk is full.
        """
        self.open()
        try:
            return self._collections[self._aliases.get(name, name)]
        except KeyError:
            raise Missing(f"there is no collection {name[:80]!r}; create it first") from None

    def find_to_write(self, name: str, min_free_bytes: int = WRITE_BYTES) -> Collection:
        """Return the collection with a name or alias, if there is space to write to it.

        Raises:
            Missing: if it does not exist.
            NoSpace: if the disk has less free space.
        """
        found = self.find(name)
        self._require_space(min_free_bytes)
        return found

    def __contains__(self, name: str) -> bool:
        self.open()
        return self._aliases.get(name, name) in self._collections

    def create(self, request: pb.CreateCollection) -> None:
        """Create a collection.

        Raises:
            RequestRejected: if its name is taken or not valid, or its vectors are not served.
        """
        name = names.checked(request.collection_name, "a collection")
        self._require_space(WRITE_BYTES)
        if name in self:
            raise NameTaken(f"the name {name!r} is taken by a collection or an alias; choose another")
        folder = self._folders / name
        try:
            folder.mkdir()
        except FileExistsError as error:
            # The file system may not distinguish A from a.
            raise NameTaken(
                f"the name {name!r} differs from another only in case; choose another"
            ) from error
        try:
            collection = Collection.create(folder / _SHARD, request)
            atomic_write(folder / _META, request.SerializeToString())
            fsync(self._folders)
        except BaseException:
            shutil.rmtree(folder)
            raise
        self._collections[name] = collection

    def drop(self, name: str) -> bool:
        """Remove a collection and its aliases; return False if no collection has the name."""
        self.open()
        if name not in self._collections:
            return False
        folder = self._folders / name
        (folder / _META).unlink()
        fsync(folder)
        # The collection is gone from here on. If the rest fails, the next start finishes it.
        collection = self._collections.pop(name)
        self._replace_aliases({alias: of for alias, of in self._aliases.items() if of != name})
        with contextlib.suppress(EngineFailed):
            collection.close()
        shutil.rmtree(folder)
        return True

    def change_aliases(self, actions: Iterable[pb.AliasOperations]) -> None:
        """Carry out all actions, or raise RequestRejected and carry out none."""
        self.open()
        self._require_space(DELETE_BYTES)
        self._replace_aliases(aliases.changed(self._aliases, actions, self._collections))

    def settle(self, *, quiet_s: float = 0.0, max_age_s: float = 0.0, max_points: int = 0) -> None:
        """Merge and flush the collections that changed; the next call retries those that fail.

        Settling blocks all requests. A collection is therefore skipped until it had no request for
        ``quiet_s``, its oldest change reached ``max_age_s``, or ``max_points`` were written.
        """
        if self._free_bytes() < DELETE_BYTES:
            return
        for name, collection in self._collections.items():
            writes = collection.unsettled
            if writes is not None and writes.are_due(quiet_s, max_age_s, max_points):
                try:
                    collection.settle()
                except EngineFailed:
                    log.exception("flush failed", collection=name)

    def close(self) -> None:
        """Flush and close every collection.

        Raises:
            EngineFailed: if one fails; acknowledged writes are still in its log.
        """
        failed = []
        for name, collection in self._collections.items():
            try:
                collection.close()
            except EngineFailed:
                log.exception("close failed", collection=name)
                failed.append(name)
        self._collections.clear()
        if failed:
            raise EngineFailed(f"these collections were not flushed: {', '.join(failed)}")

    def _require_space(self, min_free_bytes: int) -> None:
        if self._free_bytes() < min_free_bytes:
            raise NoSpace

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._folders).free

    def _replace_aliases(self, after: Aliases) -> None:
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
            created = pb.CreateCollection.FromString((folder / _META).read_bytes())
            yield folder.name, Collection.load(folder / _SHARD, created)
        except (DecodeError, EngineFailed, RequestRejected) as error:
            raise StoreUnusable(
                f"the collection in {folder} cannot be opened ({error}); "
                "restore that folder from a backup or move it away"
            ) from error


def _remove_unfinished(folder: Path) -> None:
    # Never remove files of another program.
    strange = sorted(
        entry.name for entry in folder.iterdir() if entry.name != _SHARD and not is_staged(entry, _META)
    )
    if strange:
        raise StoreUnusable(
            f"{folder} is not a collection, it contains {strange[0]!r}; move it away, "
            "or choose another directory with --dir"
        )
    log.warning("unfinished collection removed", collection=folder.name)
    shutil.rmtree(folder)
