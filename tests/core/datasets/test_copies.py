# SPDX-License-Identifier: Apache-2.0
"""Equal files in a dataset are reported by the places where they are."""

from collections.abc import Callable

import pytest

from blemish_core.datasets import DatasetStore

Draw = Callable[..., bytes]


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        (
            ("train/good/0.png", "test/good/0.png"),
            "has 1 file in both training and test images: test/good/0.png = train/good/0.png; figures",
        ),
        (
            ("train/good/0.png", "train/good/1.png"),
            "has 1 file several times: train/good/0.png = train/good/1",
        ),
        (
            ("test/crack/0.png", "test/hole/0.png"),
            "has 1 file several times: test/crack/0.png = test/hole/0.png",
        ),
        (
            ("train/good/0.png", "test/crack/0.png"),
            "has 1 file in good and in defective images: test/crack/0.png = train/good/0.png; figures",
        ),
        (
            ("test/good/0.png", "test/crack/0.png"),
            "in good and in defective images: test/crack/0.png = test/good/0.png",
        ),
    ],
)
def test_equal_files_are_reported_with_a_remedy(
    store: DatasetStore, draw: Draw, paths: tuple[str, str], problem: str
) -> None:
    store.create("tile", "")
    for path in paths:
        store.add("tile", path, draw(1))
    store.add("tile", "train/good/9.png", draw(2))
    (warning,) = store.get("tile").copies
    assert problem in warning
    assert "`blemish dataset remove tile PATH`" in warning
    store.remove("tile", [paths[0]])
    assert store.get("tile").copies == ()


def test_equal_masks_are_no_copies(store: DatasetStore, draw: Draw) -> None:
    store.create("tile", "")
    for number in range(2):
        store.add("tile", f"test/crack/{number}.png", draw(number))
        store.add("tile", f"ground_truth/crack/{number}_mask.png", draw(9))
    assert store.get("tile").copies == ()


def test_warning_names_a_few_of_many_files(store: DatasetStore, draw: Draw) -> None:
    store.create("tile", "")
    for number in range(8):
        for part in ("train/good", "test/good"):
            store.add("tile", f"{part}/{number}.png", draw(number))
    for number in range(10, 16):
        store.add("tile", f"train/good/{number}.png", draw(9))
    across, within = store.get("tile").copies
    assert "has 8 files in both" in across
    assert "and 3 more" in across
    assert "has 1 file several times: train/good/10.png = " in within
    assert "and 2 more; they count once" in within
