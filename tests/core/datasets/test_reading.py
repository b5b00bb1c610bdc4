# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from blemish_core.datasets import DatasetStore
from blemish_core.datasets.reading import ImageReader
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import Corrupt, InvalidImage

Filled = Callable[[int], ImageReader]


def png(shade: int, side: int = 32) -> bytes:
    out = BytesIO()
    Image.new("L", (side, side), shade).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    made = DatasetStore(tmp_path, ImageLimits())
    made.create("tile", "")
    return made


@pytest.fixture
def filled(store: DatasetStore) -> Filled:
    def fill(count: int) -> ImageReader:
        for number in range(count):
            store.add("tile", f"train/good/{number:03}.png", png(number))
        return ImageReader(store, ImageLimits(), store.images("tile", "train"))

    return fill


def damage(folder: Path, *numbers: int) -> None:
    for number in numbers:
        file = folder / "tile" / "train" / "good" / f"{number:03}.png"
        file.write_bytes(file.read_bytes()[:40])


def ignore(done: int, total: int, unit: str) -> None:
    pass


def test_file_truncated_after_upload_is_named_and_skipped(
    store: DatasetStore, filled: Filled, tmp_path: Path
) -> None:
    reader = filled(40)
    damage(tmp_path, 7)
    reported: list[tuple[int, int, str]] = []
    sound = reader.readable(lambda *progress: reported.append(progress))
    assert len(sound) == 39
    assert "train/good/007.png" not in {image.path for image in sound}
    assert reader.skipped == 1
    assert reader.warning() == (
        "1 of 40 train images of datasets/tile cannot be read and was skipped: train/good/007.png; "
        "restore it from a backup"
    )
    assert reported[-1] == (40, 40, "images")


def test_readable_images_cause_no_warning(filled: Filled) -> None:
    reader = filled(3)
    assert len(reader.readable(ignore)) == 3
    assert reader.warning() is None


def test_read_skips_the_same_images(store: DatasetStore, filled: Filled, tmp_path: Path) -> None:
    reader = filled(40)
    damage(tmp_path, 7)
    (tmp_path / "tile" / "train" / "good" / "009.png").unlink()
    pixels = [reader.read(image) for image in store.images("tile", "train")]
    assert [number for number, each in enumerate(pixels) if each is None] == [7, 9]
    assert reader.skipped == 2


def test_too_many_unreadable_images_are_an_error_that_names_them(filled: Filled, tmp_path: Path) -> None:
    reader = filled(40)
    damage(tmp_path, 1, 5, 11)
    with pytest.raises(
        Corrupt,
        match=r"3 of 40 train images of datasets/tile cannot be read, more than the 2 that may be skipped: "
        r"train/good/001\.png, train/good/005\.png, train/good/011\.png; .*not the file that was stored",
    ):
        reader.readable(ignore)


def test_one_of_few_images_may_be_skipped(filled: Filled, tmp_path: Path) -> None:
    reader = filled(3)
    damage(tmp_path, 1)
    assert len(reader.readable(ignore)) == 2


def test_only_image_may_not_be_skipped(filled: Filled, tmp_path: Path) -> None:
    reader = filled(1)
    damage(tmp_path, 0)
    with pytest.raises(Corrupt, match="1 of 1"):
        reader.readable(ignore)


def test_lowered_limits_apply_to_stored_images(store: DatasetStore, filled: Filled) -> None:
    filled(3)
    store.add("tile", "train/good/big.png", png(9, side=64))
    lower = ImageReader(store, ImageLimits(max_pixels=40 * 40), store.images("tile", "train"))
    assert [image.path for image in lower.readable(ignore)] == [f"train/good/{n:03}.png" for n in range(3)]
    big = store.images("tile", "train")[-1]
    with pytest.raises(InvalidImage, match=r"train/good/big\.png: the image is 64 x 64"):
        lower.read_strict(big)


def test_ten_unreadable_images_are_named_and_the_rest_counted(filled: Filled, tmp_path: Path) -> None:
    reader = filled(240)
    damage(tmp_path, *range(0, 240, 20))
    assert len(reader.readable(ignore)) == 228
    warning = reader.warning()
    assert warning is not None
    assert warning.startswith("12 of 240")
    assert "train/good/180.png and 2 more" in warning
