# SPDX-License-Identifier: Apache-2.0
"""One image of a dataset, its neighbours in the class, and its defect mask."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import grpc
import numpy as np
from PIL import Image

from blemish.v1.dataset_pb2 import DatasetImage
from blemish_client.client import Client
from blemish_client.errors import Aborted, NotFound
from blemish_client.names import short
from blemish_console.drawing.shapes import Pixels, mask_png
from blemish_layouts.names import is_good, split_mask

_MASKS = "ground_truth"


@dataclass(frozen=True)
class ImagePage:
    """An image of a dataset as its page shows it."""

    dataset: str
    """Id of the dataset."""
    image: DatasetImage
    width: int
    """Width of the upright image in px."""
    height: int
    position: int
    """Place among the images of its class, from 1."""
    total: int
    previous: str
    """Path of the image before in the class; empty for the first one."""
    next: str
    mask_files: tuple[DatasetImage, ...] = ()
    """The defect masks; a pixel of any of them is defective."""
    mask: Pixels | None = None
    """The defective pixels; None without a mask."""
    unread: tuple[str, ...] = ()
    """Paths of masks that cannot be read, or have another size than the image."""

    @property
    def masks(self) -> tuple[str, ...]:
        """Paths of the defect masks."""
        return tuple(each.path for each in self.mask_files)

    @property
    def folder(self) -> str:
        """Folder of the class: train/good or test/CLASS."""
        return self.image.path.rpartition("/")[0]

    @property
    def class_name(self) -> str:
        return self.folder.partition("/")[2]

    @property
    def may_have_mask(self) -> bool:
        """True for a defective image; good ones have none."""
        return self.image.path.startswith("test/") and not is_good(self.class_name)

    @property
    def mask_path(self) -> str:
        """Path under which a drawn mask is stored."""
        known = next((path for path in self.masks if path.lower().endswith(".png")), "")
        stem = PurePosixPath(self.image.path).stem
        return known or f"{_MASKS}/{self.class_name}/{stem}_mask.png"


def read_page(client: Client, dataset: str, path: str) -> ImagePage:
    """Return an image with its neighbours and its mask.

    Args:
        client: client of the server.
        dataset: name of the dataset.
        path: path of the image, or path of the file that was uploaded.

    Raises:
        NotFound: if the dataset does not have the image.
    """
    # A small copy states the size of the upright image.
    size = client.dataset_image(dataset, path, thumbnail=16)
    images = [] if path.startswith(_MASKS) else _images_like(client, dataset, path)
    at = next(
        (number for number, each in enumerate(images) if path in (each.path, each.original_path)), None
    )
    if at is None:
        raise NotFound(
            f"datasets/{short(dataset)} has no image {path}; list them on the page Data",
            code=grpc.StatusCode.NOT_FOUND,
        )
    page = ImagePage(
        short(dataset),
        images[at],
        size.width,
        size.height,
        at + 1,
        len(images),
        images[at - 1].path if at else "",
        images[at + 1].path if at + 1 < len(images) else "",
    )
    return _with_masks(client, page, images) if page.may_have_mask else page


def save_mask(client: Client, page: ImagePage, pixels: Pixels) -> None:
    """Store the defect mask of an image in place of its masks so far. Without any pixel they are removed.

    Raises:
        Aborted: if another person changed the mask since the page was read.
        FailedPrecondition: if a job that has not ended uses the dataset.
    """
    if not pixels.any():
        remove_mask(client, page)
        return
    _check_unchanged(client, page)
    client.upload_image(page.dataset, page.mask_path, mask_png(pixels), replace=True)
    if others := [path for path in page.masks if path != page.mask_path]:
        client.delete_images(page.dataset, others)


def remove_mask(client: Client, page: ImagePage) -> None:
    """Remove all masks of an image.

    Raises:
        Aborted: if another person changed the mask since the page was read.
        FailedPrecondition: if a job that has not ended uses the dataset.
    """
    _check_unchanged(client, page)
    if page.masks:
        client.delete_images(page.dataset, page.masks)


def _images_like(client: Client, dataset: str, path: str) -> list[DatasetImage]:
    """Return the images of the class of an image, by its path or original path."""
    images = list(client.images(dataset, under=f"{path.rpartition('/')[0]}/"))
    if any(each.path == path for each in images):
        return images
    for each in client.images(dataset, under="t"):  # train/ and test/, without masks
        if each.original_path == path:
            return _images_like(client, dataset, each.path)
    return []


def _check_unchanged(client: Client, page: ImagePage) -> None:
    images = list(client.images(page.dataset, under=f"{page.folder}/"))
    found = _mask_files(client, page, images)
    if [(each.path, each.sha256) for each in found] != [
        (each.path, each.sha256) for each in page.mask_files
    ]:
        raise Aborted(
            "another person changed the mask of this image meanwhile; discard your changes to see it",
            code=grpc.StatusCode.ABORTED,
        )


def _mask_files(
    client: Client, page: ImagePage, images: Sequence[DatasetImage]
) -> tuple[DatasetImage, ...]:
    stem = PurePosixPath(page.image.path).stem
    stems = {PurePosixPath(each.path).stem for each in images}
    found = client.images(page.dataset, under=f"{_MASKS}/{page.class_name}/{stem}")
    return tuple(each for each in found if _image_of(each.path, stems) == stem)


def _with_masks(client: Client, page: ImagePage, images: Sequence[DatasetImage]) -> ImagePage:
    files = _mask_files(client, page, images)
    merged, unread = None, []
    for file in files:
        pixels = _read_mask(client.dataset_image(page.dataset, file.path).content)
        if pixels is None or pixels.shape != (page.height, page.width):
            unread.append(file.path)
        else:
            merged = pixels if merged is None else merged | pixels
    return replace(page, mask_files=files, mask=merged, unread=tuple(unread))


def _image_of(mask: str, stems: set[str]) -> str:
    """Return the stem of the image that the server pairs with a mask; empty if there is none."""
    stem = PurePosixPath(mask).stem
    return next((each for each in (split_mask(stem)[0], stem) if each in stems), "")


def _read_mask(content: bytes) -> Pixels | None:
    """Return the pixels of a mask that are not black; None if the file cannot be read."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            samples = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    except Exception:  # decoders raise whatever a damaged file leads them to
        return None
    if samples.ndim == 3:
        colours = samples[..., :3] if samples.shape[2] >= 3 else samples[..., :1]
        return np.ascontiguousarray(colours.any(axis=2))
    return np.ascontiguousarray(samples != 0)
