# SPDX-License-Identifier: Apache-2.0
"""Reading many images of a dataset, of which a few may have gone bad since they came."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blemish_core.datasets.records import DatasetImage
from blemish_core.imaging.decode import ImageLimits, decode, verify_header
from blemish_core.platform.errors import Corrupt, InvalidImage
from blemish_core.platform.names import dataset_name

MAX_SKIPPED_SHARE = 0.05
"""One bad image among many is left out; more than this share means that the store is broken."""

_NAMED = 10


class ImageByteSource(Protocol):
    """Has the images' bytes."""

    def read(self, image: DatasetImage) -> bytes:
        """Return the encoded image.

        Raises:
            Corrupt: if it is gone, or not what was stored.
        """


class ImageReader:
    """Decodes images of one dataset, leaving out and counting those that cannot be read.

    One may be left out in any case, and up to ``MAX_SKIPPED_SHARE`` of them, but never all.
    """

    def __init__(self, store: ImageByteSource, limits: ImageLimits, images: Sequence[DatasetImage]) -> None:
        self._store = store
        self._limits = limits
        self._images = images
        self._allowed = min(max(1, int(MAX_SKIPPED_SHARE * len(images))), len(images) - 1)
        self._skipped: list[str] = []

    @property
    def skipped(self) -> int:
        return len(self._skipped)

    def read(self, image: DatasetImage) -> NDArray[np.uint8] | None:
        """Return RGB pixels (H, W, 3), or None if the image was skipped.

        Raises:
            Corrupt: if too many images were.
        """
        try:
            return decode(self._store.read(image), self._limits)
        except (Corrupt, InvalidImage) as error:
            self._skip(image, error)
            return None

    def read_strict(self, image: DatasetImage) -> NDArray[np.uint8]:
        """Return RGB pixels (H, W, 3) of an image that was sound before.

        Raises:
            Corrupt, InvalidImage: if it is no more; the message names it.
        """
        try:
            return decode(self._store.read(image), self._limits)
        except InvalidImage as error:
            raise InvalidImage(f"{image.path}: {error}", field=error.field) from error

    def readable(self, progress: Callable[[int, int, str], None]) -> list[DatasetImage]:
        """Return the images whose bytes are those that were stored and within the limits.

        Nothing is decoded: what was decoded to its end when it was stored, and has not changed, will be
        decoded again.

        Raises:
            Corrupt: if too many are not.
        """
        sound: list[DatasetImage] = []
        for done, image in enumerate(self._images):
            progress(done, len(self._images), "images")
            try:
                verify_header(self._store.read(image), self._limits)
            except (Corrupt, InvalidImage) as error:
                self._skip(image, error)
            else:
                sound.append(image)
        progress(len(self._images), len(self._images), "images")
        return sound

    def warning(self) -> str | None:
        """What was skipped, in a sentence; None if nothing was."""
        if not self._skipped:
            return None
        return (
            f"{self._told()} cannot be read and {'was' if self.skipped == 1 else 'were'} skipped: "
            f"{self._names()}; restore {'it' if self.skipped == 1 else 'them'} from a backup"
        )

    def _skip(self, image: DatasetImage, error: Exception) -> None:
        self._skipped.append(image.path)
        if self.skipped > self._allowed:
            raise Corrupt(
                f"{self._told()} cannot be read, more than the {self._allowed} that may be skipped: "
                f"{self._names()}; the last one: {error}"
            ) from error

    def _told(self) -> str:
        first = self._images[0]
        what = f"{first.split} images of {dataset_name(first.dataset)}" if first.dataset else "kept frames"
        return f"{self.skipped} of {len(self._images)} {what}"

    def _names(self) -> str:
        more = self.skipped - _NAMED
        return ", ".join(self._skipped[:_NAMED]) + (f" and {more} more" if more > 0 else "")
