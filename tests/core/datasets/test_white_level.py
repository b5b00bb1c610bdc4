# SPDX-License-Identifier: Apache-2.0
"""The white level of a dataset: given, agreed on by its images, or missing."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from blemish_core.datasets import DatasetStore
from blemish_core.datasets.reading import ImageReader
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.white_level import FULL, WhiteLevel
from blemish_core.platform.errors import InvalidRequest, NotFound


def png(bits: int, *, significant: int = 0, seed: int = 0) -> bytes:
    """Return a PNG of 16 bits whose samples use so many."""
    samples = np.random.default_rng(seed).integers(0, 1 << bits, (24, 24)).astype(np.uint16)
    samples[0, 0] = (1 << bits) - 1
    info, out = PngImagePlugin.PngInfo(), BytesIO()
    if significant:
        info.add(b"sBIT", bytes([significant]))
    Image.fromarray(samples).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def level_of(store: DatasetStore) -> WhiteLevel:
    return store.get("tile").white_level


def test_images_of_8_bits_need_no_level(store: DatasetStore, root: Path) -> None:
    store.create("tile", "")
    out = BytesIO()
    Image.fromarray(np.full((24, 24), 9, np.uint8)).save(out, "PNG")
    store.add("tile", "train/good/0.png", out.getvalue())
    found = store.get("tile")
    assert (found.white_level, found.warnings) == (WhiteLevel(), ())
    # Older servers read the files, because nothing is written that is not set.
    assert "white_level" not in json.loads((root / "tile" / "dataset.json").read_text())
    assert "depth" not in (root / "tile" / "index.jsonl").read_text()


def test_statement_of_all_images_is_the_level_also_after_a_restart(store: DatasetStore, root: Path) -> None:
    store.create("tile", "")
    store.add("tile", "train/good/0.png", png(12, significant=12))
    store.add("tile", "test/good/0.png", png(12, seed=1))
    assert level_of(store) == WhiteLevel(level=4095)
    assert level_of(DatasetStore(root, ImageLimits())) == WhiteLevel(level=4095)
    assert store.get("tile").warnings == ()


def test_given_level_is_kept_and_can_be_removed(store: DatasetStore, root: Path) -> None:
    store.create("tile", "", 4095)
    store.add("tile", "train/good/0.png", png(12))
    assert level_of(DatasetStore(root, ImageLimits())) == WhiteLevel(level=4095, given=True)
    assert store.get("tile").warnings == ()
    (warning,) = store.set_white_level("tile", None).warnings
    assert "1 images use at most a sixteenth" in warning
    assert store.set_white_level("tile", 4095).white_level == WhiteLevel(level=4095, given=True)


def test_images_that_disagree_are_warned_about(store: DatasetStore) -> None:
    store.create("tile", "")
    store.add("tile", "train/good/0.png", png(12, significant=12))
    store.add("tile", "train/good/1.png", png(10, significant=10))
    found = store.get("tile")
    assert found.white_level == WhiteLevel()
    (warning,) = found.warnings
    assert "1023 (1 images), 4095 (1 images)" in warning


def test_image_above_the_given_level_is_refused(store: DatasetStore) -> None:
    store.create("tile", "", 4095)
    with pytest.raises(InvalidRequest, match="samples up to 65535, but the white level 4095 has 12 bits"):
        store.add("tile", "train/good/0.png", png(16))
    assert store.get("tile").train_images == 0


def test_level_below_stored_images_is_refused(store: DatasetStore) -> None:
    store.create("tile", "")
    store.add("tile", "train/good/0.png", png(16))
    with pytest.raises(InvalidRequest, match="samples up to 65535"):
        store.set_white_level("tile", 4095)
    assert level_of(store) == WhiteLevel()


@pytest.mark.parametrize("level", [1, 254, 65_536, -5])
def test_impossible_levels_are_refused(store: DatasetStore, level: int) -> None:
    with pytest.raises(InvalidRequest, match="must be 255 to 65535"):
        store.create("tile", "", level)
    store.create("tile", "")
    with pytest.raises(InvalidRequest, match="must be 255 to 65535"):
        store.set_white_level("tile", level)
    with pytest.raises(NotFound):
        store.set_white_level("wood", 4095)


def test_import_takes_a_level_and_skips_images_above_it(store: DatasetStore, tmp_path: Path) -> None:
    good = tmp_path / "images" / "train" / "good"
    good.mkdir(parents=True)
    (good / "fits.png").write_bytes(png(12))
    (good / "high.png").write_bytes(png(16))
    done = store.import_folder("tile", "", tmp_path / "images", [tmp_path], white_level=4095)
    assert done.stored == 1
    assert done.dataset.white_level == WhiteLevel(level=4095, given=True)
    assert ["high.png" in file.path for file in done.skipped] == [True]


def test_dataset_of_an_older_server_takes_images_at_their_word(store: DatasetStore, root: Path) -> None:
    store.create("tile", "")
    store.add("tile", "train/good/0.png", png(12, significant=12))
    index = root / "tile" / "index.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    for line in lines:
        line.pop("depth", None)
    index.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    found = DatasetStore(root, ImageLimits()).get("tile")
    assert (found.train_images, found.white_level, found.warnings) == (1, WhiteLevel(), ())


def test_dark_images_of_an_older_server_are_found_by_reading_them(store: DatasetStore) -> None:
    store.create("tile", "")
    store.add("tile", "train/good/0.png", png(12))
    store.add("tile", "train/good/1.png", png(16))
    images = store.images("tile", "train")
    for level, dark in ((WhiteLevel(), images[:1]), (WhiteLevel(level=FULL, given=True), images[:1])):
        assert ImageReader(store, ImageLimits(), images, level).dark(images) == dark
    twelve = ImageReader(store, ImageLimits(), images, WhiteLevel(level=4095, given=True))
    assert twelve.dark(images) == []
