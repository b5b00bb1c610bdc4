# SPDX-License-Identifier: Apache-2.0
"""What travels to the server in many messages: a folder in MVTec AD's layout, an exported model."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blemish.v1.dataset_pb2 import ImageHeader, UploadImagesRequest
from blemish.v1.model_pb2 import ImportModelRequest, ModelHeader

CHUNK_BYTES = 1 << 20
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class ImageFile:
    path: str
    """In the dataset: train/good/NAME, test/CLASS/NAME or ground_truth/CLASS/NAME."""
    source: Path
    size_bytes: int


@dataclass(frozen=True)
class Layout:
    """What a folder holds."""

    images: tuple[ImageFile, ...]
    """Training images first, masks last; by name within."""
    left_out: tuple[str, ...]
    """Files in the image folders that are no images by their suffix."""

    @property
    def size_bytes(self) -> int:
        return sum(image.size_bytes for image in self.images)


def layout(folder: Path) -> Layout:
    """List the images of a folder in MVTec AD's layout.

    Raises:
        NotADirectoryError: if there is no such folder.
        ValueError: if it holds none of the layout's images.
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
            "lay them out as MVTec AD does"
        )
    return Layout(tuple(images), tuple(left_out))


def of_images(
    dataset: str, images: Sequence[ImageFile], on_image: Callable[[ImageFile], None] | None
) -> Iterator[UploadImagesRequest]:
    """Yield the messages of UploadImages; ``on_image`` hears of each image that was sent."""
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


def of_model(
    file: Path, model_id: str, on_bytes: Callable[[int, int], None] | None
) -> Iterator[ImportModelRequest]:
    """Yield the messages of ImportModel; ``on_bytes`` hears how many were sent, and of how many."""
    with file.open("rb") as content:
        size = content.seek(0, 2)
        content.seek(0)
        yield ImportModelRequest(header=ModelHeader(model_id=model_id, size_bytes=size))
        while chunk := content.read(CHUNK_BYTES):
            yield ImportModelRequest(chunk=chunk)
            if on_bytes is not None:
                on_bytes(content.tell(), size)
