# SPDX-License-Identifier: Apache-2.0
import hashlib
import io
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from blemish.v1.dataset_pb2 import DatasetImage, DeleteImagesResponse, UploadImagesResponse
from blemish_client.client import Client
from blemish_client.errors import Aborted, NotFound
from blemish_client.types.stored_image import StoredImage
from blemish_console.data import dataset_image

WIDTH, HEIGHT = 6, 4


class FakeClient:
    """A dataset in memory."""

    def __init__(self, **masks: bytes) -> None:
        self.files = {f"test/cut/{name}.png": b"" for name in ("a", "a_mask", "b")}
        self.files |= {f"ground_truth/cut/{name}.png": content for name, content in masks.items()}
        self.originals = {"test/cut/b.png": "line 3/b (1).png"}

    def images(self, dataset: str, *, under: str = "") -> Iterator[DatasetImage]:
        for path in sorted(self.files):
            if path.startswith(under):
                digest = hashlib.sha256(self.files[path]).digest()
                yield DatasetImage(path=path, sha256=digest, original_path=self.originals.get(path, ""))

    def dataset_image(self, dataset: str, path: str, **options: Any) -> StoredImage:
        return StoredImage(self.files.get(path, b""), "image/png", 0, "", WIDTH, HEIGHT)

    def upload_image(
        self, dataset: str, path: str, content: bytes, *, replace: bool = False
    ) -> UploadImagesResponse:
        self.files[path] = content
        return UploadImagesResponse()

    def delete_images(self, dataset: str, paths: Iterable[str]) -> DeleteImagesResponse:
        for path in paths:
            del self.files[path]
        return DeleteImagesResponse()

    @property
    def masks(self) -> set[str]:
        return {path for path in self.files if path.startswith("ground_truth/")}


def png(*columns: int, mode: str = "L", size: tuple[int, int] = (WIDTH, HEIGHT)) -> bytes:
    """Return a mask with defective columns."""
    levels = np.zeros((size[1], size[0]), np.uint8)
    levels[:, list(columns)] = 1
    out = io.BytesIO()
    Image.fromarray(levels).convert(mode).save(out, "PNG")
    return out.getvalue()


def read(client: FakeClient, path: str) -> dataset_image.ImagePage:
    return dataset_image.read_page(cast(Client, client), "parts", path)


def columns(pixels: object) -> list[int]:
    assert isinstance(pixels, np.ndarray)
    return [int(each) for each in np.flatnonzero(pixels.all(axis=0))]


def test_image_has_its_neighbours_in_the_class() -> None:
    page = read(FakeClient(), "test/cut/a_mask.png")
    assert (page.previous, page.next) == ("test/cut/a.png", "test/cut/b.png")
    assert (page.position, page.total) == (2, 3)
    assert read(FakeClient(), "test/cut/a.png").previous == ""
    assert read(FakeClient(), "test/cut/b.png").next == ""


def test_image_is_found_by_the_name_of_the_uploaded_file() -> None:
    assert read(FakeClient(), "line 3/b (1).png").image.path == "test/cut/b.png"
    with pytest.raises(NotFound, match="has no image"):
        read(FakeClient(), "line 4/c.png")


def test_mask_is_not_an_image_with_a_page() -> None:
    with pytest.raises(NotFound, match="has no image"):
        read(FakeClient(a=png(1)), "ground_truth/cut/a.png")


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P", "I;16"])
def test_pixels_of_a_mask_are_defective_unless_black(mode: str) -> None:
    levels = np.zeros((HEIGHT, WIDTH), np.uint8)
    levels[:, 2] = 255
    image = Image.fromarray(levels)
    out = io.BytesIO()
    (Image.fromarray(levels.astype(np.uint16)) if mode == "I;16" else image.convert(mode)).save(out, "PNG")
    assert columns(read(FakeClient(b_mask=out.getvalue()), "test/cut/b.png").mask) == [2]


def test_masks_of_an_image_are_merged_and_saved_as_one() -> None:
    client = FakeClient(b_mask=png(1), b=png(3), b_other=png(5))
    page = read(client, "test/cut/b.png")
    assert columns(page.mask) == [1, 3]
    assert page.mask is not None
    dataset_image.save_mask(cast(Client, client), page, ~page.mask)
    assert len(client.masks) == 2  # b_other belongs to no image
    assert columns(read(client, "test/cut/b.png").mask) == [0, 2, 4, 5]


def test_mask_belongs_to_the_image_that_the_server_pairs_it_with() -> None:
    client = FakeClient(a_mask=png(1), a_mask_mask=png(2))
    assert columns(read(client, "test/cut/a.png").mask) == [1]
    assert columns(read(client, "test/cut/a_mask.png").mask) == [2]


def test_mask_that_cannot_be_read_is_named_and_replaced() -> None:
    client = FakeClient(b_mask=png(1, size=(3, 3)), b=b"damaged")
    page = read(client, "test/cut/b.png")
    assert page.mask is None
    assert set(page.unread) == client.masks
    dataset_image.save_mask(cast(Client, client), page, np.ones((HEIGHT, WIDTH), np.bool_))
    again = read(client, "test/cut/b.png")
    assert again.unread == ()
    assert len(again.masks) == 1


@pytest.mark.parametrize("change", ["replaced", "removed", "added"])
def test_mask_that_another_person_changed_meanwhile_stays(change: str) -> None:
    client = FakeClient(b_mask=png(1))
    page = read(client, "test/cut/b.png")
    if change == "removed":
        client.files.pop("ground_truth/cut/b_mask.png")
    else:
        client.files[
            "ground_truth/cut/b_mask.png" if change == "replaced" else "ground_truth/cut/b.png"
        ] = png(4)
    before = dict(client.files)
    with pytest.raises(Aborted, match="another person changed the mask"):
        dataset_image.save_mask(cast(Client, client), page, np.ones((HEIGHT, WIDTH), np.bool_))
    with pytest.raises(Aborted):
        dataset_image.remove_mask(cast(Client, client), page)
    assert client.files == before


def test_empty_drawing_removes_the_masks() -> None:
    client = FakeClient(b_mask=png(1), b=png(3))
    page = read(client, "test/cut/b.png")
    dataset_image.save_mask(cast(Client, client), page, np.zeros((HEIGHT, WIDTH), np.bool_))
    assert client.masks == set()
    dataset_image.remove_mask(cast(Client, client), read(client, "test/cut/b.png"))


@pytest.mark.parametrize(
    ("path", "may"),
    [
        ("train/good/a.png", False),
        ("test/good/a.png", False),
        ("test/OK/a.png", False),
        ("test/cut/a.png", True),
    ],
)
def test_only_defective_images_have_masks(path: str, may: bool) -> None:
    client = FakeClient()
    client.files[path] = b""
    assert read(client, path).may_have_mask is may
