# SPDX-License-Identifier: Apache-2.0
"""Frames that cameras had kept: ``root/<model>/<ab>/<sha256>``, each an encoded image, by its content."""

import re
import shutil
from io import BytesIO
from pathlib import Path

from PIL import Image

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput
from blemish_core.platform.errors import NotFound
from blemish_core.platform.files import staged_file
from blemish_core.platform.names import validate_id

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FASTEST = 1  # of PNG's levels: a third of the time for a tenth more bytes


class FrameStore:
    """The kept frames below ``root``. Any number of threads and processes may read and write at once."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, model: str, sha256: str, data: bytes) -> None:
        """Keep an encoded image; there already, it stays.

        Raises:
            OSError: if the disk is full, or will not have it.
        """
        file = self._file(model, sha256)
        if file.exists():
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        with staged_file(file, durable=False) as staged:
            staged.write_bytes(data)

    def read(self, model: str, sha256: str) -> bytes:
        """Return the encoded image.

        Raises:
            NotFound: if it is not kept, or no longer.
        """
        try:
            return self._file(model, sha256).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"the frame {sha256[:12]} of models/{model} is not kept any more") from error

    def contents(self, model: str) -> list[str]:
        """The sha256 of each frame that is kept of a model."""
        folder = self._root / validate_id(model, "model")
        return sorted(file.name for file in folder.glob("??/*") if _SHA256.fullmatch(file.name))

    def remove(self, model: str, sha256: str) -> None:
        """Keep it no longer; not there, nothing happens."""
        self._file(model, sha256).unlink(missing_ok=True)

    def remove_all(self, model: str) -> None:
        """Keep no frame of a model any longer."""
        shutil.rmtree(self._root / validate_id(model, "model"), ignore_errors=True)

    def _file(self, model: str, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is no sha256; this is a bug")
        return self._root / validate_id(model, "model") / sha256[:2] / sha256


def encoded(picture: ImageInput, limits: ImageLimits) -> bytes:
    """Return a picture as one image file: as it came, or as PNG where it came raw or a part of it is meant.

    Raises:
        InvalidImage: if it is none.
    """
    if picture.layout is None and picture.region is None:
        return picture.data
    out = BytesIO()
    Image.fromarray(picture.pixels(limits)).save(out, "PNG", compress_level=_FASTEST)
    return out.getvalue()
