# SPDX-License-Identifier: Apache-2.0
"""A folder in MVTec AD's layout, as it travels to the server."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blemish.v1.dataset_pb2 import ImageHeader, UploadImagesRequest

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


class Outbox:
    """The messages of one upload, in the order of the contract.

    grpc draws them in a thread of its own and answers a failure there with an error that has lost
    its cause; it is kept in ``failure``.
    """

    def __init__(
        self,
        dataset: str,
        images: Sequence[ImageFile],
        on_image: Callable[[ImageFile], None] | None,
    ) -> None:
        self._dataset = dataset
        self._images = images
        self._on_image = on_image
        self.failure: Exception | None = None

    def messages(self) -> Iterator[UploadImagesRequest]:
        try:
            yield UploadImagesRequest(dataset=self._dataset)
            for image in self._images:
                yield from _messages(image)
                if self._on_image is not None:
                    self._on_image(image)
        except Exception as error:
            self.failure = error
            raise


def _messages(image: ImageFile) -> Iterator[UploadImagesRequest]:
    content = image.source.read_bytes()
    header = ImageHeader(path=image.path, size_bytes=len(content), sha256=hashlib.sha256(content).digest())
    yield UploadImagesRequest(image=header)
    for start in range(0, len(content), CHUNK_BYTES):
        yield UploadImagesRequest(chunk=content[start : start + CHUNK_BYTES])
