# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from blemish_client.demo.surfaces.specimen import CATEGORIES, CLASSES, FEATHER_PX, Origin, draw

SIZE = 96
FLAWS = [(category, kind) for category in CATEGORIES for kind in CLASSES[category]]


def test_categories_and_classes_are_the_documented_ones() -> None:
    assert CLASSES == {
        "tile": ("crack", "glue_strip", "oil", "rough"),
        "leather": ("cut", "fold", "poke", "color"),
        "grid": ("bent", "broken", "thread", "metal_contamination"),
    }


@pytest.mark.parametrize("category", CATEGORIES)
def test_same_origin_gives_same_bytes_and_another_differs(category: str) -> None:
    origin = Origin(category, "train", "good", 3, seed=7, size=SIZE)
    image = draw(origin).image
    assert np.array_equal(image, draw(origin).image)
    for other in (
        replace(origin, seed=8),
        replace(origin, index=4),
        replace(origin, split="test"),
        replace(origin, split="test", kind=CLASSES[category][0]),
    ):
        assert not np.array_equal(image, draw(other).image), other


@pytest.mark.parametrize("category", CATEGORIES)
def test_good_images_are_rgb_of_plausible_statistics_with_an_empty_mask(category: str) -> None:
    means, spreads = {"tile": (0.35, 0.8), "leather": (0.2, 0.5), "grid": (0.12, 0.45)}, []
    low, high = means[category]
    for index in range(4):
        specimen = draw(Origin(category, "test", "good", index, seed=0, size=SIZE))
        assert specimen.image.shape == (SIZE, SIZE, 3)
        assert specimen.image.dtype == np.uint8
        assert specimen.mask.dtype == np.bool_
        assert not specimen.mask.any()
        levels = specimen.image / 255
        assert low < levels.mean() < high
        clipped = np.isin(specimen.image, (0, 255)).all(axis=2).mean()
        assert clipped < 0.02
        spreads.append(levels.mean(axis=2).std())
        red, _, blue = levels.mean(axis=(0, 1))
        assert red - blue > 0.08 if category == "leather" else abs(red - blue) < 0.08
    assert min(spreads) > 0.03


@pytest.mark.parametrize(("category", "kind"), FLAWS)
@pytest.mark.parametrize("size", [48, SIZE, 150])
def test_defect_shows_in_its_mask_and_changes_nothing_outside(category: str, kind: str, size: int) -> None:
    for index in range(3):
        origin = Origin(category, "test", kind, index, seed=1, size=size)
        marred, twin = draw(origin), draw(origin, flawless=True)
        assert marred.mask.shape == (size, size)
        assert not twin.mask.any()
        assert 4 <= marred.mask.sum() < 0.5 * size**2

        changed = np.abs(marred.image.astype(int) - twin.image).max(axis=2)
        beyond = ndimage.distance_transform_edt(~marred.mask) >= FEATHER_PX
        assert not changed[beyond].any()
        # Not merely allowed to differ: most of what is marked did.
        assert (changed[marred.mask] >= 4).mean() > 0.4
        assert changed[marred.mask].max() >= 6


@pytest.mark.parametrize(("category", "kind"), FLAWS)
def test_defects_of_a_class_vary_in_place_and_extent(category: str, kind: str) -> None:
    masks = [draw(Origin(category, "test", kind, i, seed=2, size=SIZE)).mask for i in range(6)]
    areas = [int(mask.sum()) for mask in masks]
    centres = np.array([ndimage.center_of_mass(mask) for mask in masks])
    assert max(areas) > 1.3 * min(areas), areas
    assert centres.std(axis=0).max() > 0.05 * SIZE, centres


def test_mask_scales_with_the_image() -> None:
    shares = [
        np.mean([draw(Origin("tile", "test", "oil", i, 0, size)).mask.mean() for i in range(6)])
        for size in (96, 192)
    ]
    assert 0.4 < shares[0] / shares[1] < 2.5, shares


def test_invalid_origin_is_refused_with_the_remedy() -> None:
    origin = Origin("tile", "test", "crack", 0, seed=0, size=SIZE)
    with pytest.raises(ValueError, match=r"unknown category 'wood'.*tile, leather, grid"):
        draw(replace(origin, category="wood"))
    with pytest.raises(ValueError, match=r"tile has no class 'thread'.*crack"):
        draw(replace(origin, kind="thread"))
    with pytest.raises(ValueError, match="unknown split 'validation'"):
        draw(replace(origin, split="validation"))
    with pytest.raises(ValueError, match="32 px or more"):
        draw(replace(origin, size=31))
    with pytest.raises(ValueError, match="negative"):
        draw(replace(origin, seed=-1))
