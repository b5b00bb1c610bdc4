# SPDX-License-Identifier: Apache-2.0
"""Uploads in many messages: folders in MVTec AD's layout and exported models."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blemish.v1.dataset_pb2 import ImageHeader, UploadImagesRequest
from blemish.v1.model_pb2 import ImportModelRequest, ModelHeader

CHUNK_BYTES = 1 << 20
SUFFIXES = frozenset(
    {".bmp", ".j2k", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
)


@dataclass(frozen=True)
class ImageFile:
    """An image on disk and its path in the dataset."""

    path: str
    """Path in the dataset: train/good/NAME, test/CLASS/NAME or ground_truth/CLASS/NAME."""
    source: Path
    size_bytes: int


@dataclass(frozen=True)
class Layout:
    """The files of a folder in MVTec AD's layout."""

    images: tuple[ImageFile, ...]
    """Training images, test images and masks in this order, each sorted by name."""
    left_out: tuple[str, ...]
    """Files in the image folders without an image suffix."""

    @property
    def size_bytes(self) -> int:
        return sum(image.size_bytes for image in self.images)


def scan_folder(folder: Path) -> Layout:
    """List the images of a folder in MVTec AD's layout.

    Raises:
        NotADirectoryError: if there is no such folder.
        ValueError: if the folder has no images in that layout.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    images: list[ImageFile] = []
    left_out: list[str] = []
    for pattern in ("train/good/*", "test/*/*", "ground_truth/*/*"):
        for source in sorted(folder.glob(pattern)):
            path = source.relative_to(folder).as_posix()
            if source.name.startswith(".") or not source.is_file():
                continue
            if source.suffix.lower() in SUFFIXES:
                images.append(ImageFile(path, source, source.stat().st_size))
            else:
                left_out.append(path)
    if not images:
        raise ValueError(
            f"{folder} has no images in train/good, test/CLASS or ground_truth/CLASS; "
            "arrange them in MVTec AD's layout"
        )
    return Layout(tuple(images), tuple(left_out))


def upload_messages(
    dataset: str, images: Sequence[ImageFile], on_image: Callable[[ImageFile], None] | None
) -> Iterator[UploadImagesRequest]:
    """Yield the messages of UploadImages. Call ``on_image`` with each image after it was sent."""
    yield UploadImagesRequest(dataset=dataset)
    for image in images:
        content = image.source.read_bytes()
        digest = hashlib.sha256(content).digest()
        yield UploadImagesRequest(
            image=ImageHeader(path=image.path, size_bytes=len(content), sha256=digest)
        )
        for start in range(0, len(content), CHUNK_BYTES):
            yield UploadImagesRequest(chunk=content[start : start + CHUNK_BYTES])
        if on_image is not None:
            on_image(image)


def import_messages(
    file: Path, model_id: str, on_bytes: Callable[[int, int], None] | None
) -> Iterator[ImportModelRequest]:
    """Yield the messages of ImportModel. Call ``on_bytes`` with the bytes sent and the total."""
    with file.open("rb") as content:
        size = content.seek(0, 2)
        content.seek(0)
        yield ImportModelRequest(header=ModelHeader(model_id=model_id, size_bytes=size))
        while chunk := content.read(CHUNK_BYTES):
            yield ImportModelRequest(chunk=chunk)
            if on_bytes is not None:
                on_bytes(content.tell(), size)
