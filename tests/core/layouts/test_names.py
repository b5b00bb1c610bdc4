# SPDX-License-Identifier: Apache-2.0
import os
import unicodedata
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish_core.datasets.layout import LayoutPath
from blemish_layouts import EXTENSIONS, GOOD, MisplacedFile, is_good, place, readable
from blemish_layouts.names import class_of, is_class, printable

_FOLDERS = st.sampled_from(["a b", "a_b", "good", "ok", "划痕", "ü", "ü", "x", "2026-01-01", "-r", ".x"])
_STEMS = st.sampled_from(
    [
        "1",
        "Image (1)",
        "Bild 01",
        "ü",
        "u\u0308",
        "_0001",
        "-rf",
        ".1",
        "a\nb",
        "1--0123456789abcdef",
        "a" * 250,
    ]
) | st.text(min_size=1, max_size=8).filter(lambda text: "/" not in text and "\0" not in text)
_SOURCES = st.builds(
    lambda part, folders, stem, extension: "/".join([part, *folders, stem + extension]),
    st.sampled_from(["train", "test"]),
    st.lists(_FOLDERS, min_size=1, max_size=3),
    _STEMS,
    st.sampled_from([*EXTENSIONS, ".PNG"]),
)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("train/good/000.png", "train/good/000.png"),
        ("Train/good/IMG.0001.JPG", "train/good/IMG.0001.JPG"),
        ("test/划痕/1.png", "test/划痕/1.png"),
        ("test/खरोंच/1.png", "test/खरोंच/1.png"),
        ("train/good/Image (1).png", "train/good/Image-1--bcde8b2d2187e679.png"),
        ("train/good/Bild 01.png", "train/good/Bild-01--647033d588a3bfc8.png"),
    ],
)
def test_path_in_the_dataset_does_not_change(source: str, path: str) -> None:
    assert place(source).path == path


@settings(deadline=None, max_examples=500)
@given(st.lists(_SOURCES, min_size=2, max_size=6, unique=True))
def test_different_files_get_different_safe_paths(sources: list[str]) -> None:
    paths: dict[str, str] = {}
    for source in sources:
        try:
            placement = place(source)
        except MisplacedFile as error:
            assert source.startswith("train/"), error  # a class among the training images
            continue
        location = LayoutPath.parse(placement.path)  # raises if the name is not safe
        assert location.name.isascii()
        assert paths.setdefault(placement.path, source) == source
        assert placement.original in ("", readable(source))
        assert place(source) == placement


@pytest.mark.parametrize(
    "stem", ["Image (1)", "ü", "u\u0308", "_0001", "-rf", "..1", "a\nb\x1b[2J", "划痕", "a" * 250]
)
def test_mask_is_named_as_its_image(stem: str) -> None:
    for below, suffix in product(("", "2026-01-01/"), ("_mask", "_GT", "-mask", "_label")):
        image = LayoutPath.parse(place(f"test/two words/{below}{stem}.jpg").path)
        mask = LayoutPath.parse(place(f"ground_truth/two words/{below}{stem}{suffix}.png").path)
        assert image.pairs[0] == mask.pairs[0]


@pytest.mark.parametrize("name", ["good", "Good", "OK", "ok", "Normal", "NORMAL", " good ", "okay"])
def test_names_of_good_images_are_recognised_in_any_case(name: str) -> None:
    assert is_good(name)
    assert place(f"test/{name}/1.png").class_name == GOOD
    assert place(f"train/{name}/1.png").class_name == GOOD


@pytest.mark.parametrize("name", ["not good", "ng", "goods", "abnormal", "good_but_scratched"])
def test_other_names_are_defects(name: str) -> None:
    assert not is_good(name)
    assert place(f"test/{name}/1.png").class_name != GOOD


def test_further_names_of_good_images_can_be_given() -> None:
    assert place("test/Gut/1.png", ["gut"]).class_name == GOOD
    assert place("train/in Ordnung/1.png", ["in ordnung"]).class_name == GOOD


@settings(deadline=None)
@given(st.text(max_size=80))
def test_every_folder_name_gives_a_class(folder: str) -> None:
    name = class_of(folder)
    assert is_class(name)
    assert len(os.fsencode(name)) < 256
    assert name == folder or not is_class(folder)


def test_class_names_keep_their_script() -> None:
    assert class_of("划痕") == "划痕"
    assert class_of("Bruch am Rand") == "Bruch_am_Rand"
    assert class_of("tache (huile)") == "tache_huile"
    assert class_of(unicodedata.normalize("NFD", "Sprünge")) == "Sprünge"
    assert class_of("царапина") == "царапина"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("train/good/notes.txt", True),
        ("train/good/Thumbs.db", True),
        ("test/labels.csv", True),
        ("test/stray.png", False),
        ("train/crack/1.png", False),
        ("ground_truth/good/1.png", True),
        ("../train/good/1.png", False),
        ("train/../good/1.png", False),
        ("train/good//1.png", False),
        ("/train/good/1.png", False),
    ],
)
def test_file_without_a_place_is_refused(source: str, expected: bool) -> None:
    with pytest.raises(MisplacedFile) as refusal:
        place(source)
    assert refusal.value.expected == expected


def test_control_characters_are_never_printed() -> None:
    assert printable("a\nb\x1b[2J\u202e.png") == r"a\nb\x1b[2J\u202e.png"
    assert printable("ü 划痕.png") == "ü 划痕.png"
