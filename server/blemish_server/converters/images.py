# SPDX-License-Identifier: Apache-2.0
"""Messages with the files of stored images: the request's form and range, and a header with chunks."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from blemish.v1 import dataset_pb2, image_pb2, search_pb2
from blemish_core.imaging.decode import ImageLimits, read_header, thumbnail
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.platform.errors import Corrupt, InvalidImage, InvalidRequest
from blemish_server.converters.enums import EnumMapping

CHUNK_BYTES = 256 << 10
_MIN_SIDE, _MAX_SIDE, _DEFAULT_SIDE = 16, 2048, 256
_MEDIA_TYPES = {
    "BMP": "image/bmp",
    "JPEG": "image/jpeg",
    "JPEG2000": "image/jp2",
    "PNG": "image/png",
    "PPM": "image/x-portable-anymap",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
}
_UNKNOWN = "application/octet-stream"


class Rendition(Enum):
    """The form in which a stored image is returned."""

    ORIGINAL = "original"
    THUMBNAIL = "thumbnail"
    MAP = "map"


_RENDITIONS: EnumMapping[Rendition, image_pb2.Rendition.ValueType] = EnumMapping(
    {
        Rendition.ORIGINAL: image_pb2.RENDITION_ORIGINAL,
        Rendition.THUMBNAIL: image_pb2.RENDITION_THUMBNAIL,
        Rendition.MAP: image_pb2.RENDITION_MAP,
    }
)

_Response = TypeVar("_Response", search_pb2.GetItemImageResponse, dataset_pb2.GetImageResponse)


@dataclass(frozen=True)
class ImageSelection:
    """The part of an image's file that a request selects."""

    rendition: Rendition
    side: int
    """Longer side of a thumbnail, in px."""
    offset: int
    """First byte of the file to send."""
    size: int | None
    """Most bytes to send; None for all."""


@dataclass(frozen=True)
class OutgoingFile:
    """A file to send: its description, and the bytes of the selected range."""

    description: image_pb2.ImageFile
    content: bytes

    def messages(self, kind: type[_Response]) -> Iterator[_Response]:
        """Yield the description, then the bytes in chunks."""
        yield kind(file=self.description)
        for start in range(0, len(self.content), CHUNK_BYTES):
            yield kind(chunk=self.content[start : start + CHUNK_BYTES])


def parse_selection(
    request: search_pb2.GetItemImageRequest | dataset_pb2.GetImageRequest,
) -> ImageSelection:
    """Return the form and range of a request.

    Raises:
        InvalidRequest: if one of them is unknown or out of range.
    """
    number = request.rendition or image_pb2.RENDITION_ORIGINAL
    rendition = _RENDITIONS.parse(number, "rendition")
    side = request.max_side or _DEFAULT_SIDE
    if not _MIN_SIDE <= side <= _MAX_SIDE:
        raise InvalidRequest(f"max_side is {side}; use {_MIN_SIDE} to {_MAX_SIDE}", field="max_side")
    for field in ("read_offset", "read_limit"):
        value = getattr(request, field)
        if value < 0:
            raise InvalidRequest(f"{field} is {value}; use 0 or more", field=field)
        if value and rendition is not Rendition.ORIGINAL:
            raise InvalidRequest(f"{field} is only for the ORIGINAL; remove it", field=field)
    return ImageSelection(rendition, side, request.read_offset, request.read_limit or None)


def original_or_thumbnail(
    data: bytes, selection: ImageSelection, limits: ImageLimits, level: WhiteLevel | None
) -> OutgoingFile:
    """Return a stored file, or the thumbnail of it.

    Args:
        data: the stored file.
        selection: what the request selects; its form is not MAP.
        limits: limits on the image of a thumbnail.
        level: white level by which the image is scored.

    Raises:
        InvalidRequest: if the range begins after the end of the file.
        Corrupt: if a thumbnail of the stored file cannot be made.
    """
    description = image_pb2.ImageFile(media_type=_UNKNOWN)
    try:
        header = read_header(data, limits)
    except InvalidImage as error:
        # The limits may be lower now than when the file was accepted. It is sent in any case.
        if selection.rendition is Rendition.THUMBNAIL:
            raise Corrupt(f"the stored image cannot be drawn: {error}") from error
    else:
        description.media_type = _MEDIA_TYPES.get(header.format, _UNKNOWN)
        description.width, description.height = header.width, header.height
    if selection.rendition is Rendition.THUMBNAIL:
        try:
            data = thumbnail(data, selection.side, limits, level)
        except InvalidImage as error:
            raise Corrupt(f"the stored image cannot be drawn: {error}") from error
        description.media_type = _MEDIA_TYPES["JPEG"]
    if selection.offset > len(data):
        raise InvalidRequest(
            f"read_offset is {selection.offset}, but the file has {len(data)} bytes; start within it",
            field="read_offset",
        )
    description.size_bytes, description.sha256 = len(data), hashlib.sha256(data).digest()
    end = None if selection.size is None else selection.offset + selection.size
    return OutgoingFile(description, data[selection.offset : end])


def anomaly_map_file(values: NDArray[np.float32], threshold: float, shape: tuple[int, int]) -> OutgoingFile:
    """Return an anomaly map (rows, columns) of an image of ``shape`` (height, width)."""
    content = np.ascontiguousarray(values, "<f4").tobytes()
    rows, columns = values.shape
    description = image_pb2.ImageFile(
        media_type=_UNKNOWN,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).digest(),
        width=shape[1],
        height=shape[0],
        anomaly_map=image_pb2.AnomalyMap(width=columns, height=rows, threshold=threshold),
    )
    return OutgoingFile(description, content)
