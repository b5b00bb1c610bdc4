# SPDX-License-Identifier: Apache-2.0
"""A model version as one file, to be brought from one server to another.

A tar, uncompressed (weights do not get smaller)::

    archive.json          the format, and sha256 of each other file
    manifest.json, ...    the bundle
    calibration/2.json    every calibration since

Whoever takes one in believes nothing of it: names, kinds and contents of its files are checked, and it is
loaded in a process of its own (``archive_check``) before it becomes a version.
"""

import hashlib
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blemish_core.models import bundle, calibration_log
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import CalibrationLog
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import Corrupt, FailedPrecondition, InvalidRequest, NotFound
from blemish_core.platform.names import ID, ModelRef

HEAD = "archive.json"
ORIGIN = "imported from"
"""In the card of a version that was brought: how it was called where it came from."""
_FOLDERS = (bundle.OPENVINO, bundle.REPORT, calibration_log.FOLDER)
_NAME = re.compile(
    rf"{re.escape(bundle.MANIFEST)}|{re.escape(bundle.WEIGHTS)}|"
    rf"(?:{'|'.join(_FOLDERS)})/[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}"
)
_MOST_HEAD_BYTES = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 64 << 10
_CHECK_WITHIN_S = 600.0


class _Head(BaseModel):
    """What comes first."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    sha256: Mapping[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    """Of each file that follows, in hex."""


class ExportArchive:
    """A version of a store, ready to be read as one file."""

    def __init__(self, models: ModelStore, ref: ModelRef) -> None:
        """Look up what ``ref`` means now.

        Raises:
            NotFound: if there is no such version.
            Corrupt: if its card cannot be read.
        """
        self._version = models.resolve(ref)
        self._folder = models.folder(self._version.model, self._version.version or 0)
        manifest = models.manifest(self._version)
        later = [
            f"{calibration_log.FOLDER}/{revision.number}.json"
            for revision in models.calibrations(manifest).history(sys.maxsize)
            if revision.number > 1
        ]
        small = (bundle.MANIFEST, *reversed(later))
        try:
            sha256 = {name: bundle.sha256(self._folder / name) for name in small} | dict(manifest.sha256)
            self._names = list(sha256)
            sizes = [(self._folder / name).stat().st_size for name in self._names]
        except FileNotFoundError as error:
            raise self._gone(error) from error
        self._head = _Head(sha256=sha256).model_dump_json(indent=2).encode()
        sizes.append(len(self._head))
        self.size_bytes = sum(_BLOCK + _padded(size) for size in sizes) + 2 * _BLOCK

    def chunks(self) -> Iterator[bytes]:
        """Yield the file, ``size_bytes`` in all.

        Raises:
            NotFound: if the version is removed meanwhile.
        """
        yield _header(HEAD, len(self._head)) + self._head + _padding(len(self._head))
        for name in self._names:
            try:
                with (self._folder / name).open("rb") as file:
                    yield from _member(name, file)
            except FileNotFoundError as error:
                raise self._gone(error) from error
        yield bytes(2 * _BLOCK)

    def _gone(self, error: FileNotFoundError) -> NotFound:
        return NotFound(f"{self._version} was removed meanwhile, or lacks {Path(error.filename).name}")


def import_version(models: ModelStore, file: Path, room: Path, model_id: str = "") -> Manifest:
    """Make the archive in ``file`` a version of a model, unless the model has it already.

    Args:
        models: the store.
        file: the archive.
        room: a folder of ``models.import_workspace``, for its files.
        model_id: as it was called where it was exported if empty.

    Raises:
        InvalidRequest: if it is none, or not as it was written; the message says what is wrong.
        FailedPrecondition: if it cannot be run here.
    """
    folder = room / "bundle"
    folder.mkdir()
    manifest = unpack(file, folder)
    model = model_id or manifest.model
    if there := models.published_by(manifest.job, model):
        return there
    files = [each.relative_to(folder) for each in folder.rglob("*")]
    check_runs(folder)

    def write(staging: Path, number: int) -> None:
        for each in folder.iterdir():  # nothing is left there where the number was taken meanwhile
            each.rename(staging / each.name)
        if lost := [each for each in files if not (staging / each).exists()]:
            raise FailedPrecondition(f"{lost[0]} is gone: whoever imported it has left")
        training = {**manifest.training, ORIGIN: manifest.name}
        named = manifest.model_copy(update={"model": model, "version": number, "training": training})
        bundle.write_manifest(named, staging)

    return models.publish(model, manifest.job, write)


def unpack(file: Path, folder: Path) -> Manifest:
    """Write the files of an archive into ``folder``, which is empty, and return the version's card.

    Raises:
        InvalidRequest: if it is none, or not as it was written; the message says what is wrong.
    """
    try:
        with file.open("rb") as archive:
            head = _read_head(archive)
            while member := _next_member(archive):
                _extract(archive, *member, head, folder)
    except (tarfile.TarError, ValidationError) as error:
        raise _refused(f"{type(error).__name__}, {str(error).splitlines()[0]}") from error
    if missing := sorted(name for name in head.sha256 if not (folder / name).is_file()):
        raise _refused(f"it lacks {missing[0][:100]}")
    try:
        manifest = bundle.read_manifest(folder)
        _check(manifest, head)
        CalibrationLog(folder, manifest).history(sys.maxsize)
    except (FileNotFoundError, Corrupt) as error:
        raise _refused(str(error).replace(f"{folder}/", "")) from error
    return manifest


def check_runs(folder: Path) -> None:
    """Have a process of its own load the bundle in ``folder`` and compare its runtimes.

    Raises:
        FailedPrecondition: if it cannot be run here.
    """
    command = (sys.executable, "-m", "blemish_core.models.archive_check", str(folder))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_WITHIN_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise FailedPrecondition(f"it could not be loaded within {_CHECK_WITHIN_S:.0f} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"]
        raise FailedPrecondition(f"this version cannot be run here: {lines[-1]}")


def _next_member(archive: BinaryIO) -> tuple[str, int] | None:
    """Name and size of the file that comes next; None at the end.

    tarfile itself would follow what is of no use here: links, sparse files, headers of any length.
    """
    block = _exactly(archive, _BLOCK)
    if not any(block):
        return None
    info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    if info.type != tarfile.REGTYPE or info.size < 0:
        raise _refused(f"{info.name[:100]!r} is no plain file")
    return info.name, info.size


def _read_head(archive: BinaryIO) -> _Head:
    member = _next_member(archive)
    if member is None or member[0] != HEAD or member[1] > _MOST_HEAD_BYTES:
        raise _refused(f"it does not begin with {HEAD}")
    head = _Head.model_validate_json(_exactly(archive, _padded(member[1]))[: member[1]])
    if unknown := [name for name in head.sha256 if not _NAME.fullmatch(name)]:
        raise _refused(f"{unknown[0][:100]!r} has no place in it")
    return head


def _extract(archive: BinaryIO, name: str, size: int, head: _Head, folder: Path) -> None:
    """Write one file, if it is one that may be there and is what was announced."""
    if name not in head.sha256:
        raise _refused(f"{name[:100]!r} has no place in it")
    target = folder / name
    if target.exists():
        raise _refused(f"{name} is in it twice")
    target.parent.mkdir(exist_ok=True)
    digest, left = hashlib.sha256(), size
    with target.open("xb") as out:
        while left:
            chunk = _exactly(archive, min(left, _CHUNK_BYTES))
            digest.update(chunk)
            out.write(chunk)
            left -= len(chunk)
    _exactly(archive, _padded(size) - size)
    if digest.hexdigest() != head.sha256[name]:
        raise _refused(f"{name} is not what was exported: it was damaged on the way")


def _exactly(archive: BinaryIO, size: int) -> bytes:
    data = archive.read(size)
    if len(data) != size:
        raise _refused("it was cut off")
    return data


def _check(manifest: Manifest, head: _Head) -> None:
    """Refuse a card that names what is not there, or could lead out of the store."""
    for what, text in (("model", manifest.model), ("job", manifest.job), ("dataset", manifest.dataset)):
        if not re.fullmatch(ID, text):
            raise _refused(f"its card has the {what} {text[:100]!r}")
    for name, sha256 in manifest.sha256.items():
        if head.sha256.get(name) != sha256:
            raise _refused(f"its card knows another {name[:100]}")
    networks = {str(card.file) for card in manifest.runtimes.values() if card.file is not None}
    if unknown := networks - set(manifest.sha256):
        raise _refused(f"its card names the network {min(unknown)[:100]!r}, which it has not")
    if bundle.WEIGHTS not in manifest.sha256:
        raise _refused("it has no weights")


def _member(name: str, file: BinaryIO) -> Iterator[bytes]:
    """Yield a file as it stands in a tar; it does not grow meanwhile, what was published never changes."""
    size = file.seek(0, 2)
    file.seek(0)
    yield _header(name, size)
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
    yield _padding(size)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)  # no other has sizes of 8 GiB and more in one block


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _padding(size: int) -> bytes:
    return bytes(_padded(size) - size)


def _refused(why: str) -> InvalidRequest:
    return InvalidRequest(f"this is no model that a blemish exported: {why}", field="chunk")
