# SPDX-License-Identifier: Apache-2.0
"""Images of the command line: files, dumps of raw samples, arrays of NumPy, and parts of them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import typer

from blemish.v1.image_pb2 import Image, RawImage, Region
from blemish_client.cli.failures import Failure
from blemish_client.images import raw_image, set_image
from blemish_client.streaming.sources import IMAGE_SUFFIXES

_ARRAY_SUFFIX = ".npy"

Raw = Annotated[
    str | None,
    typer.Option(
        "--raw",
        metavar="FORMAT:WIDTHxHEIGHT",
        help="Files are raw samples of this GenICam format and size, for example Mono12p:2448x2048.",
        show_default="encoded images, or arrays in .npy files",
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        "--region",
        metavar="LEFT,TOP,WIDTH,HEIGHT",
        help="Part of the images to score, in px.",
        show_default="all",
    ),
]


@dataclass(frozen=True)
class FrameReader:
    """Reads images from files as the options of a command describe them."""

    raw: tuple[str, int, int] | None = None
    """Pixel format, width and height of raw samples."""
    region: tuple[int, int, int, int] | None = None
    """Left, top, width and height of the part to score."""

    @classmethod
    def of(cls, raw: str | None, region: str | None) -> Self:
        """Parse the options.

        Raises:
            Failure: if one is malformed.
        """
        return cls(
            None if raw is None else _parse_raw(raw), None if region is None else parse_region(region)
        )

    @property
    def suffixes(self) -> frozenset[str] | None:
        """Endings of the names of image files, in lower case; None for all files."""
        return None if self.raw is not None else IMAGE_SUFFIXES | {_ARRAY_SUFFIX}

    def read(self, file: Path) -> bytes | Image:
        """Return the image in a file, with the region to score.

        Raises:
            Failure: if the file cannot be read.
        """
        return self.part(self.load(file))

    def load(self, file: Path) -> bytes | Image:
        """Return the whole image in a file.

        Raises:
            Failure: if the file cannot be read.
        """
        try:
            if file.suffix.lower() == _ARRAY_SUFFIX:
                return _load_array(file)
            content = file.read_bytes()
        except OSError as error:
            raise Failure(f"cannot read {file}: {error.strerror}") from error
        if self.raw is None:
            return content
        name, width, height = self.raw
        return Image(raw=RawImage(pixel_format=name, width=width, height=height, data=content))

    def part(self, image: bytes | Image) -> bytes | Image:
        """Return an image with the region to score."""
        if self.region is None:
            return image
        message = Image()
        set_image(message, image)
        left, top, width, height = self.region
        message.region.CopyFrom(Region(left=left, top=top, width=width, height=height))
        return message

    def parts(self, images: Iterable[bytes | Image]) -> Iterator[bytes | Image]:
        """Yield images with the region to score."""
        return map(self.part, images)


def parse_region(text: str) -> tuple[int, int, int, int]:
    """Return left, top, width and height.

    Raises:
        Failure: if the text is malformed.
    """
    try:
        left, top, width, height = map(int, text.split(","))
    except ValueError as error:
        raise Failure(f"--region {text} is not valid; give LEFT,TOP,WIDTH,HEIGHT") from error
    return left, top, width, height


def _parse_raw(text: str) -> tuple[str, int, int]:
    if (parts := re.fullmatch(r"(\w+):(\d{1,6})x(\d{1,6})", text)) is None:
        raise Failure(f"--raw {text} is not valid; give FORMAT:WIDTHxHEIGHT, for example Mono8:2448x2048")
    return parts[1], int(parts[2]), int(parts[3])


def _load_array(file: Path) -> Image:
    import numpy as np

    try:
        return raw_image(np.ascontiguousarray(np.load(file, allow_pickle=False)))
    except (ValueError, EOFError) as error:
        raise Failure(f"cannot read {file}: {error}") from error
