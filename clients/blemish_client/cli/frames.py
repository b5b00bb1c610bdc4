# SPDX-License-Identifier: Apache-2.0
"""Images of the command line: files, dumps of raw samples, arrays of NumPy, and parts of them."""

import glob
import io
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self, cast

import typer

from blemish.v1.image_pb2 import Image, RawImage, Region
from blemish_client.cli.failures import Failure
from blemish_client.images import raw_image, set_image
from blemish_client.streaming.folders import IMAGE_SUFFIXES, has_suffix, image_files
from blemish_client.types.frame import Frame

_ARRAY_SUFFIX = ".npy"

_PANEL = "Form of the images"

Raw = Annotated[
    str | None,
    typer.Option(
        "--raw",
        metavar="FORMAT:WIDTHxHEIGHT",
        rich_help_panel=_PANEL,
        help="Files are raw samples of this GenICam format and size, for example Mono12p:2448x2048.",
        show_default="encoded images, or arrays in .npy files",
    ),
]
Part = Annotated[
    str | None,
    typer.Option(
        "--region",
        metavar="LEFT,TOP,WIDTH,HEIGHT",
        rich_help_panel=_PANEL,
        help="Part of the images to score, in px.",
        show_default="all",
    ),
]


STDIN = Path("-")


def find_images(arguments: Iterable[Path], suffixes: frozenset[str] | None) -> list[Path]:
    """Return the files that arguments of a command name: files, folders, patterns, and ``-`` for stdin.

    Args:
        arguments: arguments of the command line.
        suffixes: endings of the names of images in folders, in lower case; None for all files.

    Raises:
        Failure: if a folder or a pattern has no image, or stdin is no pipe or named twice.
    """
    found: list[Path] = []
    for argument in arguments:
        if argument == STDIN:
            if STDIN in found or sys.stdin.isatty():
                raise Failure("- reads one image from stdin; pipe it, and name it once")
            found.append(argument)
        elif argument.is_dir():
            found += _images_of(argument, suffixes)
        elif argument.exists() or not glob.has_magic(str(argument)):
            found.append(argument)
        else:
            matches = sorted(map(Path, glob.glob(str(argument), recursive=True)))  # noqa: PTH207
            files = [match for match in matches if match.is_file()]
            folders = [match for match in matches if match.is_dir() and "**" not in str(argument)]
            files += (file for folder in folders for file in _images_of(folder, suffixes))
            if not files:
                raise Failure(f"no file matches {argument}; check the pattern")
            found += files
    return found


def _images_of(folder: Path, suffixes: frozenset[str] | None) -> list[Path]:
    try:
        images = list(image_files(folder, has_suffix(suffixes)))
    except OSError as error:
        raise Failure(f"cannot read {folder}: {error.strerror}") from error
    if not images:
        raise Failure(f"{folder} has no images ({', '.join(sorted(suffixes or ()))}); check the folder")
    return images


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
            content = sys.stdin.buffer.read() if file == STDIN else file.read_bytes()
            return self.parse(file, content)
        except OSError as error:
            raise Failure(f"cannot read {file}: {error.strerror}") from error
        except ValueError as error:
            raise Failure(f"cannot read {file}: {error}") from error

    def parse(self, file: Path, content: bytes) -> bytes | Image:
        """Return the whole image in the content of a file.

        Raises:
            ValueError: if the file is an array that is not an image.
        """
        if file.suffix.lower() == _ARRAY_SUFFIX:
            return _load_array(content)
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

    def parts(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Yield frames with the region to score."""
        for frame in frames:
            yield replace(frame, image=self.part(cast("bytes | Image", frame.image)))


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


def _load_array(content: bytes) -> Image:
    import numpy as np

    try:
        return raw_image(np.ascontiguousarray(np.load(io.BytesIO(content), allow_pickle=False)))
    except EOFError as error:
        raise ValueError(str(error)) from error
