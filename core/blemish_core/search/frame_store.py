# SPDX-License-Identifier: Apache-2.0
"""Store of the camera frames that were kept, as encoded images ``root/<model>/<ab>/<sha256>``."""

import re
import shutil
from io import BytesIO
from pathlib import Path

from PIL import Image

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.platform.errors import Corrupt, NotFound
from blemish_core.platform.files import staged_file
from blemish_core.platform.names import validate_id
from blemish_layouts.reading import read_regular

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_BYTES = 1 << 30
_COMPRESSION_LEVEL = 1  # PNG's fastest, because frames are encoded while others wait


class FrameStore:
    """The kept frames of all models. Threads and processes may share its folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, model: str, sha256: str, data: bytes) -> None:
        """Store an encoded image, unless it is stored already.

        Raises:
            OSError: if the file cannot be written, for example because the disk is full.
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
            NotFound: if the frame is not stored.
            Corrupt: if it is not a regular file, or cannot be read.
        """
        try:
            return read_regular(self._file(model, sha256), _MAX_BYTES)
        except FileNotFoundError as error:
            raise NotFound(
                f"the frame {sha256[:12]} of models/{model} is not stored; retention may have removed it"
            ) from error
        except OSError as error:
            raise Corrupt(
                f"the frame {sha256[:12]} of models/{model} cannot be read ({error.strerror}); delete it"
            ) from error

    def contents(self, model: str) -> list[str]:
        """Return the SHA-256 digests of a model's frames, sorted."""
        folder = self._root / validate_id(model, "model")
        return sorted(file.name for file in folder.glob("??/*") if _SHA256.fullmatch(file.name))

    def remove(self, model: str, sha256: str) -> None:
        """Remove a frame, if it is stored."""
        self._file(model, sha256).unlink(missing_ok=True)

    def remove_all(self, model: str) -> None:
        """Remove all frames of a model."""
        shutil.rmtree(self._root / validate_id(model, "model"), ignore_errors=True)

    def _file(self, model: str, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"{sha256!r} is not a SHA-256 digest; this is a bug")
        return self._root / validate_id(model, "model") / sha256[:2] / sha256


def encode_image(image: ImageInput, limits: ImageLimits, level: WhiteLevel | None = None) -> bytes:
    """Return an image as one file: unchanged if possible, as PNG if it is raw or a region of a larger one.

    A PNG has the pixels that were scored, by the white level of the version that scored them.

    Raises:
        InvalidImage: if the image cannot be decoded.
    """
    if image.layout is None and image.region is None:
        return image.data
    out = BytesIO()
    Image.fromarray(image.pixels(limits, level)).save(out, "PNG", compress_level=_COMPRESSION_LEVEL)
    return out.getvalue()
