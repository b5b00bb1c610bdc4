# SPDX-License-Identifier: Apache-2.0
"""Reading of many images, a few of which may have become unreadable since they were stored."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blemish_core.datasets.records import DatasetImage
from blemish_core.imaging.decode import ImageLimits, decode, decode_image, verify_header
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.platform.errors import Corrupt, InvalidImage
from blemish_core.platform.names import dataset_name

MAX_SKIPPED_SHARE = 0.05
"""Largest share of unreadable images that is skipped; a larger share indicates a broken store."""

_NAMED = 10


class ImageByteSource(Protocol):
    """A source of encoded images."""

    def read(self, image: DatasetImage) -> bytes:
        """Return the encoded image.

        Raises:
            Corrupt: if the file is missing or was changed.
        """


class ImageReader:
    """A decoder of one dataset's images that skips and counts unreadable images.

    It skips up to ``MAX_SKIPPED_SHARE`` of the images, at least one, but never all.

    Args:
        store: source of the encoded images.
        limits: limits on each image.
        images: images that may be read.
        level: white level of the model or training; None for the rule of versions without one.
    """

    def __init__(
        self,
        store: ImageByteSource,
        limits: ImageLimits,
        images: Sequence[DatasetImage],
        level: WhiteLevel | None = None,
    ) -> None:
        self._store = store
        self._level = level
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
            Corrupt: if too many images are unreadable.
        """
        try:
            return decode(self._store.read(image), self._limits, self._level)
        except (Corrupt, InvalidImage) as error:
            self.skip(image, error)
            return None

    def read_strict(self, image: DatasetImage) -> NDArray[np.uint8]:
        """Return RGB pixels (H, W, 3) of an image that was readable before.

        Raises:
            Corrupt, InvalidImage: if the image is unreadable; the message names it.
        """
        try:
            return decode(self._store.read(image), self._limits, self._level)
        except InvalidImage as error:
            raise InvalidImage(f"{image.shown}: {error}", field=error.field) from error

    def dark(self, images: Sequence[DatasetImage]) -> list[DatasetImage]:
        """Return the readable images that use at most a sixteenth of the range of their samples."""
        found = []
        for image in images:
            with suppress(Corrupt, InvalidImage):
                depth = decode_image(self._store.read(image), self._limits, self._level).depth
                if depth is not None and depth.is_dark:
                    found.append(image)
        return found

    def readable(self, progress: Callable[[int, int, str], None]) -> list[DatasetImage]:
        """Return the images whose bytes are unchanged and within the limits.

        No image is decoded: each one was decoded completely before it was stored.

        Raises:
            Corrupt: if too many images are unreadable.
        """
        readable: list[DatasetImage] = []
        for done, image in enumerate(self._images):
            progress(done, len(self._images), "images")
            try:
                verify_header(self._store.read(image), self._limits)
            except (Corrupt, InvalidImage) as error:
                self.skip(image, error)
            else:
                readable.append(image)
        progress(len(self._images), len(self._images), "images")
        return readable

    def warning(self) -> str | None:
        """Return a sentence about the skipped images, or None."""
        if not self._skipped:
            return None
        return (
            f"{self._summary()} cannot be read and {'was' if self.skipped == 1 else 'were'} skipped: "
            f"{self._names()}; restore {'it' if self.skipped == 1 else 'them'} from a backup"
        )

    def skip(self, image: DatasetImage, error: Exception) -> None:
        """Count an image that cannot be used.

        Raises:
            Corrupt: if there are too many of them.
        """
        self._skipped.append(image.shown)
        if self.skipped > self._allowed:
            raise Corrupt(
                f"{self._summary()} cannot be read, more than the {self._allowed} that may be skipped: "
                f"{self._names()}; last error: {error}"
            ) from error

    def _summary(self) -> str:
        first = self._images[0]
        kind = f"{first.split} images of {dataset_name(first.dataset)}" if first.dataset else "kept frames"
        return f"{self.skipped} of {len(self._images)} {kind}"

    def _names(self) -> str:
        more = self.skipped - _NAMED
        return ", ".join(self._skipped[:_NAMED]) + (f" and {more} more" if more > 0 else "")
