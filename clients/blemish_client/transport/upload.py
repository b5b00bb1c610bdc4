# SPDX-License-Identifier: Apache-2.0
"""Uploads in many messages: folders of images and exported models."""

import hashlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

from blemish.v1.dataset_pb2 import ImageHeader, SkippedFile, UploadImagesRequest, UploadImagesResponse
from blemish.v1.model_pb2 import ImportModelRequest, ModelHeader
from blemish_layouts.names import EXTENSIONS, is_hidden_file, is_hidden_folder, readable
from blemish_layouts.plan import AS_NAMED, Conversion, DatasetPlan, NotADataset, plan
from blemish_layouts.reading import read_regular, walk

CHUNK_BYTES = 1 << 20
SUFFIXES = frozenset(EXTENSIONS)
_MAX_SKIPPED = 1000
_MAX_FILE_BYTES = 1 << 30
"""Longest file that is sent; the server has lower limits."""
_MAX_FOLDERS = 100_000
"""Most folders that are walked. Links to links would multiply them without end."""


class FolderOptions(TypedDict, total=False):
    """The choices about the conversion of a folder."""

    layout: str
    """Name of the layout, for example ``visa``. Default: the one that is detected."""
    good: Collection[str]
    """Names of folders of good images, in addition to good, ok, okay and normal in any case."""
    bad: Collection[str]
    """Folders of defective images, of a folder without another layout."""
    masks: Collection[str]
    """Folders of masks, of a folder without another layout."""
    only_defective: bool
    """True to accept a test set without good images."""


def folder_conversion(options: FolderOptions, category: str) -> Conversion:
    """Return the choices as the layouts need them."""
    return Conversion(
        good=frozenset(options.get("good", ())),
        only_defective=options.get("only_defective", False),
        layout=options.get("layout", ""),
        category=category,
        bad=frozenset(options.get("bad", ())),
        masks=frozenset(options.get("masks", ())),
    )


@dataclass(frozen=True)
class ImageFile:
    """An image on disk and its path in the dataset."""

    path: str
    """Path in the dataset: train/good/NAME, test/CLASS/NAME or ground_truth/CLASS/NAME."""
    source: Path
    size_bytes: int
    original: str = ""
    """Path below the uploaded folder, if it differs from ``path``."""


@dataclass(frozen=True)
class Layout:
    """The files of a folder with their places in a dataset."""

    plan: DatasetPlan
    images: tuple[ImageFile, ...]
    """Training images, test images and masks in this order, each sorted by path."""
    skipped: tuple[SkippedFile, ...]
    """Files that are not uploaded. No image is missing because of files with ``expected``."""

    @property
    def size_bytes(self) -> int:
        return sum(image.size_bytes for image in self.images)


@dataclass(frozen=True)
class ImageContent:
    """An image in memory and its path in a dataset."""

    path: str
    """Path in the dataset: train/good/NAME, test/CLASS/NAME or ground_truth/CLASS/NAME."""
    content: bytes
    """Encoded image."""
    original_path: str = ""
    """Path that the sender has, if it differs from ``path``."""


def scan_folder(folder: Path, conversion: Conversion = AS_NAMED) -> Layout:
    """Arrange the images of a folder as a dataset, see ``blemish_layouts``.

    Raises:
        NotADirectoryError: if there is no such folder.
        NotADataset: if the folder has no images at places that can be recognised. It is a ValueError.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    skipped: list[SkippedFile] = []
    try:
        arranged = plan(_walk(folder, skipped), conversion, partial(_read, folder))
    except NotADataset as error:
        raise NotADataset(f"{readable(folder)} is not a dataset; {error}") from error
    skipped += [
        SkippedFile(path=readable(each.source), reason=each.reason, expected=each.expected)
        for each in arranged.left_out
    ]
    images: list[ImageFile] = []
    for placement in arranged.files:
        source = folder / placement.source
        try:
            status = source.stat()
            if not stat.S_ISREG(status.st_mode):
                raise OSError(0, "is not a regular file")
        except OSError as error:
            skipped.append(_unreadable(placement.source, error))
        else:
            images.append(ImageFile(placement.path, source, status.st_size, placement.original))
    return Layout(arranged, tuple(images), tuple(skipped))


def upload_messages(
    dataset: str,
    images: Sequence[ImageFile],
    skipped: list[SkippedFile],
    on_image: Callable[[ImageFile], None] | None,
    *,
    replace: bool = False,
) -> Iterator[UploadImagesRequest]:
    """Yield the messages of UploadImages.

    Args:
        dataset: name of the dataset.
        images: images to send.
        skipped: receives the images that cannot be read.
        on_image: called with each image after it was sent.
        replace: replace images with other content.
    """
    yield UploadImagesRequest(dataset=dataset, skip_rejected=True, replace=replace)
    for image in images:
        try:
            content = read_regular(image.source, _MAX_FILE_BYTES)
        except OSError as error:
            skipped.append(_unreadable(image.original or image.path, error))
            continue
        yield from _image_messages(ImageContent(image.path, content, image.original))
        if on_image is not None:
            on_image(image)


def image_messages(
    dataset: str, path: str, content: bytes, *, replace: bool
) -> Iterator[UploadImagesRequest]:
    """Yield the messages of UploadImages for one image."""
    yield UploadImagesRequest(dataset=dataset, replace=replace)
    yield from _image_messages(ImageContent(path, content))


def content_messages(
    dataset: str, images: Iterable[ImageContent], *, replace: bool = False
) -> Iterator[UploadImagesRequest]:
    """Yield the messages of UploadImages for images in memory.

    Args:
        dataset: name of the dataset.
        images: images to send, taken one after the other.
        replace: replace images with other content.
    """
    yield UploadImagesRequest(dataset=dataset, skip_rejected=True, replace=replace)
    for image in images:
        yield from _image_messages(image)


def _image_messages(image: ImageContent) -> Iterator[UploadImagesRequest]:
    content = image.content
    yield UploadImagesRequest(
        image=ImageHeader(
            path=image.path,
            size_bytes=len(content),
            sha256=hashlib.sha256(content).digest(),
            original_path=image.original_path,
        )
    )
    for start in range(0, len(content), CHUNK_BYTES):
        yield UploadImagesRequest(chunk=content[start : start + CHUNK_BYTES])


def with_skipped(response: UploadImagesResponse, skipped: Sequence[SkippedFile]) -> UploadImagesResponse:
    """Add the files that were not sent to those that the server skipped."""
    response.skipped.extend(skipped[: max(0, _MAX_SKIPPED - len(response.skipped))])
    response.skipped_count += len(skipped)
    response.expected_count += sum(file.expected for file in skipped)
    return response


def _walk(folder: Path, skipped: list[SkippedFile]) -> Iterator[str]:
    """Yield the files below a folder that may be images; links are followed."""

    def on_error(error: OSError) -> None:
        skipped.append(_unreadable(os.path.relpath(error.filename, folder), error))

    above: dict[Path, frozenset[Path]] = {}  # the folders that a folder is in, with links resolved
    for number, (walked, folders, names) in enumerate(walk(folder, on_error, follow_links=True)):
        if number == _MAX_FOLDERS:
            raise NotADataset(
                f"it has more than {_MAX_FOLDERS} folders, or links that lead around in it; give the "
                "folder of one dataset"
            )
        here = Path(walked)
        outer, resolved = above.get(here.parent, frozenset()), here.resolve()
        if resolved in outer:
            folders.clear()
            path = readable(here.relative_to(folder))
            skipped.append(SkippedFile(path=path, reason="is a link to a folder that it is in"))
            continue
        above[here] = outer | {resolved}
        folders[:] = [name for name in folders if not is_hidden_folder(name)]
        for name in names:
            if not is_hidden_file(name):
                yield (here / name).relative_to(folder).as_posix()


def _read(folder: Path, path: str, max_bytes: int) -> bytes:
    """Return a file that describes the dataset."""
    return read_regular(folder / path, max_bytes)


def _unreadable(path: str, error: OSError) -> SkippedFile:
    return SkippedFile(path=readable(path), reason=f"cannot be read: {error.strerror}")


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


def import_stream_messages(
    chunks: Iterable[bytes], size_bytes: int, model_id: str
) -> Iterator[ImportModelRequest]:
    """Yield the messages of ImportModel for bytes that come in chunks of any size."""
    yield ImportModelRequest(header=ModelHeader(model_id=model_id, size_bytes=size_bytes))
    for chunk in chunks:
        for start in range(0, len(chunk), CHUNK_BYTES):
            yield ImportModelRequest(chunk=chunk[start : start + CHUNK_BYTES])
