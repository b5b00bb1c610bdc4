# SPDX-License-Identifier: Apache-2.0
"""The good images of a training, with their scores: ``report/good_images.json`` in a bundle.

Held-out images were scored by a detector that was not trained on them; their scores are the calibration.
The others were scored by the published detector, which has learned from them.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from blemish_core.models import bundle
from blemish_core.platform.errors import Corrupt
from blemish_core.platform.files import atomic_write
from blemish_layouts.names import printable
from blemish_layouts.reading import read_regular

FILE = f"{bundle.REPORT}/good_images.json"
_MAX_BYTES = 512 << 20


class GoodImage(BaseModel):
    """A good image of a training."""

    model_config = ConfigDict(frozen=True)

    path: str
    """Path in the dataset, or ``items/ID`` for an item of an index."""
    original: str = ""
    """Path of the file that was uploaded, if it differs from ``path``."""
    sha256: str
    """SHA-256 of the encoded bytes, in hex."""
    held_out: bool = False
    """True if ``score`` comes from a detector that was not trained on the image."""
    score: float | None = None
    """None for an image that was not scored, such as a copy of a held-out one."""

    @property
    def shown(self) -> str:
        """Path for people, in one line."""
        return printable(self.original or self.path)


class _File(BaseModel):
    """The content of the file."""

    images: tuple[GoodImage, ...]


def write_good_images(images: Sequence[GoodImage], folder: Path) -> None:
    """Write the file into a bundle that has a folder for its report."""
    atomic_write(folder / FILE, _File(images=tuple(images)).model_dump_json().encode())


def read_good_images(folder: Path) -> tuple[GoodImage, ...] | None:
    """Return the good images of a bundle, None for a version of an older blemish.

    Raises:
        Corrupt: if the file is damaged.
    """
    try:
        return _File.model_validate_json(read_regular(folder / FILE, _MAX_BYTES)).images
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise Corrupt(f"{folder / FILE} is damaged; restore it from a backup, or train again") from error
