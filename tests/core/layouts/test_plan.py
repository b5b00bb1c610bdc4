# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterable

import pytest

from blemish_core.datasets.layout import LayoutPath
from blemish_layouts import plan as layouts
from blemish_layouts.plan import AS_NAMED, Conversion, DatasetPlan, NoGoodClass, NotADataset


def plan(files: Iterable[str], conversion: Conversion) -> DatasetPlan:
    """Return the plan of a folder of which no file is read."""

    def read(path: str, max_bytes: int) -> bytes:
        raise AssertionError(path)

    return layouts.plan(files, conversion, read)


TILE = ["train/good/0.png", "test/good/0.png", "test/crack/0.png", "ground_truth/crack/0_mask.png"]


def test_files_are_arranged_by_part_and_path() -> None:
    arranged = plan(reversed([*TILE, "license.txt", "train/good/notes.txt"]), AS_NAMED)
    assert [file.path for file in arranged.files] == [TILE[0], TILE[2], TILE[1], TILE[3]]
    assert [file.original for file in arranged.files] == [""] * 4
    assert [(file.source, file.expected) for file in arranged.left_out] == [("train/good/notes.txt", True)]


def test_two_folders_for_the_same_part_never_share_a_name() -> None:
    arranged = plan(["Test/crack/1.png", "test/crack/1.png"], AS_NAMED)
    assert [file.source for file in arranged.files] == ["Test/crack/1.png"]
    ((left_out),) = arranged.left_out
    assert left_out.source == "test/crack/1.png"
    assert "the same place in the dataset as Test/crack/1.png" in left_out.reason
    assert not left_out.expected


def test_folders_of_one_class_are_merged_without_losing_a_file() -> None:
    arranged = plan([f"test/{name}/1.png" for name in ("good", "Good", "OK", "ok", "normal")], AS_NAMED)
    assert {file.class_name for file in arranged.files} == {"good"}
    assert len({file.path for file in arranged.files}) == 5
    assert not arranged.left_out


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("test/crack/\u00fc.png", "ground_truth/crack/u\u0308_mask.png"),
        ("test/crack/u\u0308.png", "ground_truth/crack/\u00fc.png"),
        ("test/crack/IMG_1.JPG", "ground_truth/crack/img_1_GT.png"),
        ("test/Crack/1.png", "ground_truth/crack/1_mask.png"),
        ("test/two words/sub/Bild 1.jpg", "ground_truth/two words/sub/bild 1_mask.png"),
    ],
)
def test_mask_fits_its_image_in_another_normal_form_or_case(image: str, mask: str) -> None:
    first, second = (LayoutPath.parse(file.path) for file in plan([image, mask], AS_NAMED).files)
    assert first.pairs[0] in second.pairs


def test_mask_of_one_of_two_similar_names_is_left_alone() -> None:
    files = ["test/crack/a.png", "test/crack/A.png", "ground_truth/crack/a_mask.png"]
    assert [file.original for file in plan(files, AS_NAMED).files] == [""] * 3


def test_test_set_without_good_images_is_refused() -> None:
    arranged = plan(["train/good/0.png", "test/gut/0.png", "test/Riss/0.png"], AS_NAMED)
    with pytest.raises(NoGoodClass, match=r"in Riss, gut, .*--good NAME.*--only-defective") as refusal:
        arranged.check_good(AS_NAMED, already=False)
    assert refusal.value.classes == ("Riss", "gut")


@pytest.mark.parametrize(
    ("files", "conversion", "already"),
    [
        (["test/crack/0.png"], AS_NAMED, True),
        (["test/crack/0.png"], Conversion(only_defective=True), False),
        (["test/crack/0.png", "test/gut/0.png"], Conversion(good=frozenset({"GUT"})), False),
        (["test/crack/0.png", "test/gut/0.png"], Conversion(good=frozenset({"test/gut/"})), False),
        (["test/crack/0.png", "test/OK/0.png"], AS_NAMED, False),
        (["train/good/0.png"], AS_NAMED, False),
    ],
)
def test_test_set_with_known_classes_is_accepted(
    files: list[str], conversion: Conversion, already: bool
) -> None:
    plan(files, conversion).check_good(conversion, already=already)


def test_folder_without_images_at_known_places_is_refused() -> None:
    for files in ([], ["0.png"], ["good/0.png"], ["train/0.png"], ["train/good/notes.txt"]):
        with pytest.raises(NotADataset, match="train/good"):
            plan(files, AS_NAMED)
