# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish_client.demo.surfaces import CATEGORIES, CLASSES, generate

SIZE = 48


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_folder_has_the_layout_of_mvtec_ad(tmp_path: Path, category: str) -> None:
    generate(tmp_path, category, train=3, good=2, defective=6, size=SIZE)
    first, second, third, fourth = CLASSES[category]
    expected = {"README.txt"}
    expected |= {f"train/good/00{i}.png" for i in range(3)}
    expected |= {f"test/good/00{i}.png" for i in range(2)}
    for kind, count in ((first, 2), (second, 2), (third, 1), (fourth, 1)):
        expected |= {f"test/{kind}/00{i}.png" for i in range(count)}
        expected |= {f"ground_truth/{kind}/00{i}_mask.png" for i in range(count)}
    assert set(_files(tmp_path)) == expected

    for path in tmp_path.rglob("*.png"):
        with Image.open(path) as image:
            assert image.size == (SIZE, SIZE)
            if path.stem.endswith("_mask"):
                assert image.mode == "L"
                assert set(np.unique(np.asarray(image))) == {0, 255}
            else:
                assert image.mode == "RGB"


def test_readme_states_synthetic_origin_and_seed(tmp_path: Path) -> None:
    generate(tmp_path, "grid", seed=41, train=1, good=0, defective=0, size=SIZE)
    text = (tmp_path / "README.txt").read_text(encoding="utf-8")
    assert text.startswith("Synthetic images")
    assert "made by blemish" in text
    assert "seed 41" in text


def test_seed_fixes_every_byte_whatever_the_counts(tmp_path: Path) -> None:
    for name, seed, train, defective in (
        ("once", 5, 2, 4),
        ("again", 5, 2, 4),
        ("more", 5, 3, 9),
        ("other", 6, 2, 4),
    ):
        generate(
            tmp_path / name,
            "leather",
            seed=seed,
            train=train,
            good=1,
            defective=defective,
            size=SIZE,
        )
    once, again, more, other = (_files(tmp_path / n) for n in ("once", "again", "more", "other"))
    assert once == again
    images = [name for name in once if name.endswith(".png")]
    assert len(images) == 2 + 1 + 4 + 4
    for name in images:
        assert more[name] == once[name], name
        assert other[name] != once[name], name


def test_progress_counts_every_image(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    generate(
        tmp_path,
        "tile",
        train=2,
        good=1,
        defective=3,
        size=SIZE,
        on_image=lambda done, total: told.append((done, total)),
    )
    assert told == [(done, 6) for done in range(1, 7)]


def test_unknown_category_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown category 'wood'.*tile, leather, grid"):
        generate(tmp_path / "wood", "wood")
    assert not (tmp_path / "wood").exists()


@pytest.mark.parametrize("name", ["seed", "train", "good", "defective", "size"])
def test_number_out_of_range_is_refused_by_name(tmp_path: Path, name: str) -> None:
    numbers = {"seed": 0, "train": 1, "good": 1, "defective": 1, "size": SIZE} | {name: -1}
    with pytest.raises(ValueError, match=f"{name} is -1"):
        generate(
            tmp_path / "tile",
            "tile",
            seed=numbers["seed"],
            train=numbers["train"],
            good=numbers["good"],
            defective=numbers["defective"],
            size=numbers["size"],
        )
    assert not (tmp_path / "tile").exists()


def test_folder_with_content_is_refused(tmp_path: Path) -> None:
    generate(tmp_path, "tile", train=1, good=0, defective=0, size=SIZE)
    before = _files(tmp_path)
    with pytest.raises(FileExistsError, match="not empty"):
        generate(tmp_path, "tile", seed=1, train=1, good=0, defective=0, size=SIZE)
    assert _files(tmp_path) == before
