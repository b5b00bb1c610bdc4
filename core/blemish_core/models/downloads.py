# SPDX-License-Identifier: Apache-2.0
"""RemoteFiles of known files, whose SHA-256 is checked before they are opened."""

import hashlib
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blemish_core.detectors.efficientad import teacher
from blemish_core.detectors.efficientad.settings import SIZES
from blemish_core.platform.errors import Corrupt, FailedPrecondition

IMAGENETTE = "imagenette"
_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 20
_MAX_MEMBER_BYTES = 64 << 20  # largest file that is extracted

ReportBytes = Callable[[int, int], None]
"""Called with the bytes received and in total, 0 if unknown."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the internet and its SHA-256, in hex."""

    url: str
    sha256: str


TEACHERS = RemoteFile(
    "https://github.com/open-edge-platform/anomalib/releases/download/"
    "efficientad_pretrained_weights/efficientad_pretrained_weights.zip",
    "c09aeaa2b33f244b3261a5efdaeae8f8284a949470a4c5a526c61275fe62684a",
)
PHOTOGRAPHS = RemoteFile(
    "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz",
    "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
)


def fetch_teachers(weights: Path, on_bytes: ReportBytes, source: RemoteFile = TEACHERS) -> list[Path]:
    """Download EfficientAD's official teachers into the store's folder of weights.

    Raises:
        FailedPrecondition: if the file cannot be downloaded.
        Corrupt: if the file is not the known one.
        InvalidRequest: if the weights do not fit the network.
    """
    with _downloaded(source, weights, on_bytes) as file, zipfile.ZipFile(file) as archive:
        imported = []
        for size in SIZES:
            name = f"pretrained_teacher_{size}.pth"
            inside = [info for info in archive.infolist() if Path(info.filename).name == name]
            if not inside or inside[0].file_size > _MAX_MEMBER_BYTES:
                raise Corrupt(f"{source.url} contains no {name}; use `blemish weights import`")
            extracted = file.with_name(name)
            extracted.write_bytes(archive.read(inside[0]))
            imported.append(teacher.import_weights(size, extracted, weights))
        return imported


def fetch_photographs(weights: Path, on_bytes: ReportBytes, source: RemoteFile = PHOTOGRAPHS) -> Path:
    """Download Imagenette's photographs into the store's folder of weights.

    Raises:
        FailedPrecondition: if the file cannot be downloaded.
        Corrupt: if the file is not the known one.
    """
    with _downloaded(source, weights, on_bytes) as file:
        unpacked = file.with_name("unpacked")
        try:
            with tarfile.open(file) as archive:
                # The filter rejects links out of the folder and devices, and ignores owners.
                archive.extractall(unpacked, filter="data")
        except tarfile.TarError as error:
            raise Corrupt(f"{source.url} cannot be unpacked ({error}); download it again") from error
        folder = weights / IMAGENETTE
        shutil.rmtree(folder, ignore_errors=True)
        return unpacked.replace(folder)


@contextmanager
def _downloaded(source: RemoteFile, folder: Path, on_bytes: ReportBytes) -> Iterator[Path]:
    """Download ``source`` and yield its path below ``folder``; delete it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        file = Path(scratch) / "file"
        digest = hashlib.sha256()
        try:
            with urllib.request.urlopen(source.url, timeout=_TIMEOUT_S) as answer, file.open("wb") as out:
                total, done = int(answer.headers.get("Content-Length") or 0), 0
                while chunk := answer.read(_CHUNK_BYTES):
                    out.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    on_bytes(done, total)
        except OSError as error:
            raise FailedPrecondition(
                f"{source.url} cannot be downloaded ({error}); download it on another machine and use "
                "`blemish weights import`"
            ) from error
        if digest.hexdigest() != source.sha256:
            raise Corrupt(
                f"the file from {source.url} was changed: it has the SHA-256 {digest.hexdigest()}, not "
                f"{source.sha256}; download it again"
            )
        yield file
