# SPDX-License-Identifier: Apache-2.0
"""What can be fetched where the internet is: known files, checked by SHA-256 before they are opened."""

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
from blemish_core.platform.errors import Corrupt, FailedPrecondition

IMAGENETTE = "imagenette"
_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 20
_MAX_MEMBER_BYTES = 64 << 20  # of one file in an archive

Told = Callable[[int, int], None]
"""Hears the bytes that came and those to come in all, 0 if not known."""


@dataclass(frozen=True)
class Download:
    """A file of the internet."""

    url: str
    sha256: str


TEACHERS = Download(
    "https://github.com/open-edge-platform/anomalib/releases/download/"
    "efficientad_pretrained_weights/efficientad_pretrained_weights.zip",
    "c09aeaa2b33f244b3261a5efdaeae8f8284a949470a4c5a526c61275fe62684a",
)
PHOTOGRAPHS = Download(
    "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz",
    "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
)


def fetch_teachers(weights: Path, told: Told, source: Download = TEACHERS) -> list[Path]:
    """Bring EfficientAD's official teachers into the store's folder of weights.

    Raises:
        FailedPrecondition: if the file cannot be had.
        Corrupt: if it is not the file that is known.
        InvalidRequest: if its content does not fit.
    """
    with _fetched(source, weights, told) as file, zipfile.ZipFile(file) as archive:
        kept = []
        for size in teacher.SIZES:
            name = f"pretrained_teacher_{size}.pth"
            inside = [info for info in archive.infolist() if Path(info.filename).name == name]
            if not inside or inside[0].file_size > _MAX_MEMBER_BYTES:
                raise Corrupt(f"{source.url} holds no {name}")
            brought = file.with_name(name)
            brought.write_bytes(archive.read(inside[0]))
            kept.append(teacher.import_weights(size, brought, weights))
        return kept


def fetch_photographs(weights: Path, told: Told, source: Download = PHOTOGRAPHS) -> Path:
    """Bring Imagenette's photographs into the store's folder of weights.

    Raises:
        FailedPrecondition: if the file cannot be had.
        Corrupt: if it is not the file that is known.
    """
    with _fetched(source, weights, told) as file:
        unpacked = file.with_name("unpacked")
        try:
            with tarfile.open(file) as archive:
                # "data": no links out of the folder, no devices, no owners.
                archive.extractall(unpacked, filter="data")
        except tarfile.TarError as error:
            raise Corrupt(f"{source.url} cannot be unpacked: {error}") from error
        folder = weights / IMAGENETTE
        shutil.rmtree(folder, ignore_errors=True)
        return unpacked.replace(folder)


@contextmanager
def _fetched(source: Download, beside: Path, told: Told) -> Iterator[Path]:
    """Hold the file of ``source`` in a folder that is gone afterwards."""
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".fetch-") as scratch:
        file = Path(scratch) / "file"
        digest = hashlib.sha256()
        try:
            with urllib.request.urlopen(source.url, timeout=_TIMEOUT_S) as answer, file.open("wb") as out:
                total, done = int(answer.headers.get("Content-Length") or 0), 0
                while chunk := answer.read(_CHUNK_BYTES):
                    out.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    told(done, total)
        except OSError as error:
            raise FailedPrecondition(
                f"{source.url} cannot be fetched ({error}): fetch it where the internet is and bring it "
                "with `blemish weights import`"
            ) from error
        if digest.hexdigest() != source.sha256:
            raise Corrupt(
                f"what {source.url} gave has the SHA-256 {digest.hexdigest()}, not {source.sha256}: it was "
                "changed on its way or at its source, and is not used"
            )
        yield file
