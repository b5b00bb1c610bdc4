# SPDX-License-Identifier: Apache-2.0
"""Stored images as the server sends them: a description, then the bytes in chunks."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import grpc

from blemish.v1.dataset_pb2 import GetImageResponse
from blemish.v1.image_pb2 import AnomalyMap, ImageFile
from blemish.v1.search_pb2 import GetItemImageResponse
from blemish_client.errors import InternalError

_EXTENSIONS = {
    "image/bmp": ".bmp",
    "image/jp2": ".jp2",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/tiff": ".tif",
    "image/webp": ".webp",
    "image/x-portable-anymap": ".ppm",
}


@dataclass(frozen=True)
class StoredImage:
    """The file of a stored image, or a range of it."""

    content: bytes
    media_type: str
    """Type of the file, such as image/png."""
    size_bytes: int
    """Size of the whole file."""
    sha256: str
    """SHA-256 of the whole file, in hex."""
    width: int
    """Width of the original in px, upright; 0 if the server cannot read it."""
    height: int
    """Height of the original in px, upright."""

    @property
    def extension(self) -> str:
        """Extension of a file's name, such as .png."""
        return _EXTENSIONS.get(self.media_type, ".bin")


def receive_image(answers: Iterable[GetItemImageResponse] | Iterable[GetImageResponse]) -> StoredImage:
    """Return the file that a server sends.

    Raises:
        InternalError: if the bytes of a whole file do not match its digest.
        BlemishError: if the call fails.
    """
    description, chunks = _parts(answers)
    content = b"".join(chunks)
    digest = description.sha256
    if len(content) == description.size_bytes and hashlib.sha256(content).digest() != digest:
        raise InternalError(
            "the image was damaged on its way; request it again", code=grpc.StatusCode.DATA_LOSS
        )
    return StoredImage(
        content,
        description.media_type,
        description.size_bytes,
        digest.hex(),
        description.width,
        description.height,
    )


def receive_map(answers: Iterable[GetItemImageResponse]) -> AnomalyMap:
    """Return the anomaly map that a server sends.

    Raises:
        BlemishError: if the call fails.
    """
    description, chunks = _parts(answers)
    found = AnomalyMap()
    found.CopyFrom(description.anomaly_map)
    found.values = b"".join(chunks)
    return found


def _parts(
    answers: Iterable[GetItemImageResponse] | Iterable[GetImageResponse],
) -> tuple[ImageFile, Iterator[bytes]]:
    """Return the description, and the chunks as they arrive."""
    remaining: Iterator[GetItemImageResponse | GetImageResponse] = iter(answers)
    first = next(remaining, None)
    if first is None or not first.HasField("file"):
        raise InternalError(
            "the server sent no description of the image; check that it is a blemish server",
            code=grpc.StatusCode.INTERNAL,
        )
    return first.file, (answer.chunk for answer in remaining)
