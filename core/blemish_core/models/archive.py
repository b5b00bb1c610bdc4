# SPDX-License-Identifier: Apache-2.0
"""A model version as a single file, for the transfer between servers.

The file is a tar, uncompressed because weights do not compress::

    archive.json          format, and SHA-256 of each other file
    manifest.json, ...    the bundle
    calibration/2.json    all later calibrations

An import trusts nothing in it. Names, types and contents of the files are checked, and a separate process
(``archive_check``) loads the bundle before it becomes a version.
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
"""Key of an imported version's manifest for its name on the exporting server."""
_FOLDERS = (bundle.OPENVINO, bundle.REPORT, calibration_log.FOLDER)
_NAME = re.compile(
    rf"{re.escape(bundle.MANIFEST)}|{re.escape(bundle.WEIGHTS)}|{re.escape(bundle.MASK)}|"
    rf"{re.escape(bundle.REFERENCE)}|"
    rf"(?:{'|'.join(_FOLDERS)})/[A-Za-z0-9][A-Za-z0-9._-]{{0,99}}"
)
_MAX_HEAD_BYTES = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 64 << 10
_CHECK_S = 600.0


class _Header(BaseModel):
    """The content of ``archive.json``, the first file."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    sha256: Mapping[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    """SHA-256 of each following file, in hex."""


class ExportArchive:
    """The archive of one version of a store."""

    def __init__(self, models: ModelStore, ref: ModelRef) -> None:
        """Resolve ``ref`` and list the files of the version.

        Raises:
            NotFound: if the version does not exist.
            Corrupt: if its manifest is damaged.
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
            raise self._deleted(error) from error
        self._head = _Header(sha256=sha256).model_dump_json(indent=2).encode()
        sizes.append(len(self._head))
        self.size_bytes = sum(_BLOCK + _padded(size) for size in sizes) + 2 * _BLOCK

    def chunks(self) -> Iterator[bytes]:
        """Yield the content, ``size_bytes`` in total.

        Raises:
            NotFound: if the version is deleted during the export.
        """
        yield _header(HEAD, len(self._head)) + self._head + _padding(len(self._head))
        for name in self._names:
            try:
                with (self._folder / name).open("rb") as file:
                    yield from _member(name, file)
            except FileNotFoundError as error:
                raise self._deleted(error) from error
        yield bytes(2 * _BLOCK)

    def _deleted(self, error: FileNotFoundError) -> NotFound:
        return NotFound(
            f"{self._version} was deleted, or lacks {Path(error.filename).name}; choose another version"
        )


def import_version(models: ModelStore, file: Path, workspace: Path, model_id: str = "") -> Manifest:
    """Publish the archive in ``file`` as a version of a model, unless the model already has it.

    Args:
        models: the store.
        file: the archive.
        workspace: a folder from ``models.import_workspace``, for the extracted files.
        model_id: id of the model; if empty, its id on the exporting server.

    Raises:
        InvalidRequest: if the file is not a valid archive; the message gives the reason.
        FailedPrecondition: if the version cannot run on this machine.
    """
    folder = workspace / "bundle"
    folder.mkdir()
    manifest = unpack(file, folder)
    model = model_id or manifest.model
    if existing := models.published_by(manifest.job, model):
        return existing
    files = [each.relative_to(folder) for each in folder.rglob("*")]
    check_runs(folder)

    def write(staging: Path, number: int) -> None:
        for each in folder.iterdir():  # empty if this is a second attempt with another number
            each.rename(staging / each.name)
        if missing := [each for each in files if not (staging / each).exists()]:
            raise FailedPrecondition(f"{missing[0]} was deleted during the import; import it again")
        training = {**manifest.training, ORIGIN: manifest.name}
        renamed = manifest.model_copy(update={"model": model, "version": number, "training": training})
        bundle.write_manifest(renamed, staging)

    return models.publish(model, manifest.job, write)


def unpack(file: Path, folder: Path) -> Manifest:
    """Extract an archive into ``folder``, which must be empty, and return the version's manifest.

    Raises:
        InvalidRequest: if the file is not a valid archive; the message gives the reason.
    """
    try:
        with file.open("rb") as archive:
            head = _read_head(archive)
            while member := _next_member(archive):
                _extract(archive, *member, head, folder)
    except (tarfile.TarError, ValidationError) as error:
        raise _invalid(f"{type(error).__name__}, {str(error).splitlines()[0]}") from error
    if missing := sorted(name for name in head.sha256 if not (folder / name).is_file()):
        raise _invalid(f"it lacks {missing[0][:100]}")
    try:
        manifest = bundle.read_manifest(folder)
        _check(manifest, head)
        CalibrationLog(folder, manifest).history(sys.maxsize)
    except (FileNotFoundError, Corrupt) as error:
        raise _invalid(str(error).replace(f"{folder}/", "").partition(";")[0]) from error
    return manifest


def check_runs(folder: Path) -> None:
    """Load the bundle in ``folder`` and compare its runtimes in a separate process.

    Raises:
        FailedPrecondition: if the version cannot run on this machine.
    """
    command = (sys.executable, "-m", "blemish_core.models.archive_check", str(folder))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise FailedPrecondition(f"loading it took more than {_CHECK_S:.0f} s; retry later") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"its process exited with code {done.returncode}"]
        raise FailedPrecondition(f"this version cannot be run here: {lines[-1]}")


def _next_member(archive: BinaryIO) -> tuple[str, int] | None:
    """Return the name and size of the next file, or None at the end.

    The tarfile module would also follow links, sparse files and headers of any length.
    """
    block = _exactly(archive, _BLOCK)
    if not any(block):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except UnicodeDecodeError as error:
        raise _invalid("it has a name that is not ASCII") from error
    if info.type != tarfile.REGTYPE or info.size < 0:
        raise _invalid(f"{info.name[:100]!r} is not a regular file")
    return info.name, info.size


def _read_head(archive: BinaryIO) -> _Header:
    member = _next_member(archive)
    if member is None or member[0] != HEAD or member[1] > _MAX_HEAD_BYTES:
        raise _invalid(f"it does not begin with {HEAD}")
    head = _Header.model_validate_json(_exactly(archive, _padded(member[1]))[: member[1]])
    if unknown := [name for name in head.sha256 if not _NAME.fullmatch(name)]:
        raise _invalid(f"{unknown[0][:100]!r} is not allowed in it")
    return head


def _extract(archive: BinaryIO, name: str, size: int, head: _Header, folder: Path) -> None:
    """Extract one file if it is listed in the header and has the listed hash."""
    if name not in head.sha256:
        raise _invalid(f"{name[:100]!r} is not allowed in it")
    target = folder / name
    if target.exists():
        raise _invalid(f"{name} occurs twice")
    target.parent.mkdir(exist_ok=True)
    digest, remaining = hashlib.sha256(), size
    with target.open("xb") as out:
        while remaining:
            chunk = _exactly(archive, min(remaining, _CHUNK_BYTES))
            digest.update(chunk)
            out.write(chunk)
            remaining -= len(chunk)
    _exactly(archive, _padded(size) - size)
    if digest.hexdigest() != head.sha256[name]:
        raise _invalid(f"{name} does not have the listed SHA-256, so it was damaged in transit")


def _exactly(archive: BinaryIO, size: int) -> bytes:
    data = archive.read(size)
    if len(data) != size:
        raise _invalid("it is truncated")
    return data


def _check(manifest: Manifest, head: _Header) -> None:
    """Reject a manifest with missing files, or with names that could lead out of the store."""
    for field, text in (("model", manifest.model), ("job", manifest.job), ("dataset", manifest.dataset)):
        if not re.fullmatch(ID, text):
            raise _invalid(f"its manifest has the {field} {text[:100]!r}")
    for name, sha256 in manifest.sha256.items():
        if head.sha256.get(name) != sha256:
            raise _invalid(f"its manifest has another SHA-256 of {name[:100]}")
    files = {name for card in manifest.runtimes.values() for name in (card.file, card.tensors) if name}
    if unknown := files - set(manifest.sha256):
        raise _invalid(f"its manifest names the network {min(unknown)[:100]!r}, which is missing")
    if bundle.WEIGHTS not in manifest.sha256:
        raise _invalid("it has no weights")
    named = manifest.mask.sha256 if manifest.mask is not None else None
    if manifest.sha256.get(bundle.MASK) != named:
        raise _invalid("its manifest and its mask do not belong together")
    is_aligned = manifest.mask is not None and manifest.mask.reference is not None
    if (bundle.REFERENCE in manifest.sha256) != is_aligned:
        raise _invalid("its manifest and its reference do not belong together")


def _member(name: str, file: BinaryIO) -> Iterator[bytes]:
    """Yield a file in tar format. Its size is constant, because published files never change."""
    size = file.seek(0, 2)
    file.seek(0)
    yield _header(name, size)
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk
    yield _padding(size)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)  # the only format with sizes of 8 GiB and more in one block


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _padding(size: int) -> bytes:
    return bytes(_padded(size) - size)


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"this is not an export of blemish ({reason}); export it again", field="chunk")
