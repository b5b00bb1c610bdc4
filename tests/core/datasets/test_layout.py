# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish_core.datasets.layout import EXTENSIONS, PARTS, LayoutPath
from blemish_core.platform.errors import InvalidRequest

_PIECES = st.sampled_from(
    [
        *PARTS,
        "good",
        "crack",
        "..",
        ".",
        "",
        "~",
        "000.png",
        "a" * 64,
        "\0",
        "\\",
        "..\\x.png",
        "C:",
        ".a.png",
    ]
) | st.text(max_size=12)
_PATHS = st.text() | st.lists(_PIECES, max_size=5).map("/".join)
_CLASSES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)
_NAMES = st.builds(
    str.__add__,
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}", fullmatch=True),
    st.sampled_from(EXTENSIONS),
)


@settings(deadline=None)
@given(_PATHS)
def test_no_accepted_path_leaves_the_root(path: str) -> None:
    try:
        slot = LayoutPath.parse(path)
    except InvalidRequest as error:
        assert str(error).isprintable()
        return
    root = Path("/store/dataset")
    resolved = (root / path).resolve()
    assert resolved.is_relative_to(root)
    assert resolved == root / slot.part / slot.class_name / slot.name
    assert str(slot) == path
    assert not slot.name.startswith(".")


@settings(deadline=None)
@given(_CLASSES, _NAMES)
def test_paths_in_the_layout_are_accepted(class_name: str, name: str) -> None:
    for path in (f"train/good/{name}", f"test/{class_name}/{name}"):
        assert str(LayoutPath.parse(path)) == path
    if class_name != "good":
        assert LayoutPath.parse(f"ground_truth/{class_name}/{name}").part == "ground_truth"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "train/good/NAME"),
        ("000.png", "train/good/NAME"),
        ("/train/good/000.png", "train/good/NAME"),
        ("train/good/../../x.png", "train/good/NAME"),
        ("train/good/sub/000.png", "train/good/NAME"),
        ("valid/good/000.png", "train/good/NAME"),
        ("Train/good/000.png", "train/good/NAME"),
        ("train\\good\\000.png", "train/good/NAME"),
        ("train/crack/000.png", "contains only good images"),
        ("ground_truth/good/000_mask.png", "no ground truth"),
        ("test/../000.png", "is not a valid class"),
        ("test/two words/000.png", "is not a valid class"),
        ("test/-r/000.png", "is not a valid class"),
        (f"test/{'a' * 64}/000.png", "1 to 63"),
        ("test/crack/.png", "is not a valid file name"),
        ("test/crack/000\0.png", "is not a valid file name"),
        ("test/crack/000.png\n", "is not a valid file name"),
        ("test/crack/a b.png", "is not a valid file name"),
        (f"test/crack/{'a' * 125}.png", "1 to 128"),
        ("test/crack/000.gif", "must end in .png"),
        ("test/crack/png", "must end in .png"),
    ],
)
def test_rejected_path_is_explained(path: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as refusal:
        LayoutPath.parse(path)
    assert refusal.value.field == "path"


def test_upper_case_extensions_and_classes_are_kept() -> None:
    slot = LayoutPath.parse("test/Bent-Lead_2/IMG.0001.PNG")
    assert (slot.class_name, slot.name) == ("Bent-Lead_2", "IMG.0001.PNG")


@pytest.mark.parametrize(
    "mask",
    [
        "003.png",
        "003_mask.png",
        "003_GT.png",
        "003-mask.tif",
        "003_label.PNG",
        "003_mask-002.png",
        "003.gt.bmp",
    ],
)
def test_images_and_masks_are_paired(mask: str) -> None:
    (pair,) = LayoutPath.parse("test/crack/003.jpg").pairs
    assert pair in LayoutPath.parse(f"ground_truth/crack/{mask}").pairs
    assert pair not in LayoutPath.parse(f"ground_truth/oil/{mask}").pairs


def test_good_images_have_no_masks() -> None:
    for path in ("test/good/003.png", "train/good/003.png", "test/OK/003.png"):
        assert LayoutPath.parse(path).pairs == []
