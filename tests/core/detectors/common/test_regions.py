# SPDX-License-Identifier: Apache-2.0
"""Search by region on constructed patches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from blemish_core.detectors.base import PatchFeatures, Prediction
from blemish_core.detectors.common.regions import describe_region, locate_region, region_mask
from blemish_core.imaging.image_input import Region
from blemish_core.platform.errors import InvalidRequest

SIDE, DIMENSIONS, THRESHOLD = 16, 32, 3.0
SHAPE = (128, 256)
CRACK, STAIN = functional.normalize(torch.randn(2, DIMENSIONS, generator=torch.Generator().manual_seed(0)))
EVERYWHERE = np.ones(SHAPE, bool)


def make_patches(*defects: tuple[Tensor, int, int, float], seed: int = 1, margin: int = 0) -> PatchFeatures:
    """Return an image with defects of 3 x 3 patches: direction, row, column and anomaly of each."""
    random = torch.Generator().manual_seed(seed)
    deviations = torch.randn(SIDE, SIDE, DIMENSIONS, generator=random)
    anomaly = torch.rand(SIDE, SIDE, generator=random)
    for direction, row, column, height in defects:
        deviations[row : row + 3, column : column + 3] += 20 * direction
        anomaly[row : row + 3, column : column + 3] = height
    prediction = Prediction(
        float(anomaly.max()), np.zeros((SIDE, SIDE), np.float32), np.zeros(1, np.float32)
    )
    return PatchFeatures(
        prediction,
        deviations.numpy(),
        anomaly.numpy(),
        0.5,
        np.array([1.0, 0.2], np.float32),
        margin,
    )


def around(row: int, column: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Return the mask of a defect's patches, in px."""
    return region_mask(SHAPE, Region(16 * column, 8 * row, 48, 24))


def test_each_of_two_defects_is_located_in_images_of_its_kind() -> None:
    both = make_patches((CRACK, 2, 3, 9.0), (STAIN, 10, 11, 6.0))
    others = {
        "crack": make_patches((CRACK, 7, 1, 5.0), seed=2),
        "stain": make_patches((STAIN, 4, 9, 8.0), seed=3),
        "good": make_patches(seed=4),
    }
    for kind, (row, column), place in (("crack", (2, 3), (7, 1)), ("stain", (10, 11), (4, 9))):
        query = describe_region(both, around(row, column), THRESHOLD)
        found = {name: locate_region(other, SHAPE, query, THRESHOLD) for name, other in others.items()}
        assert max(found, key=lambda name: found[name].similarity) == kind
        assert found[kind].similarity > 0.8 > 0.5 > found["good"].similarity
        box = found[kind].box
        row, column = place
        assert abs(box.left - 16 * column) <= 16
        assert abs(box.top - 8 * row) <= 8
        assert abs(box.width - 48) <= 32
        assert abs(box.height - 24) <= 16


def test_region_is_embedded_as_an_image_that_shows_nothing_worse() -> None:
    both = make_patches((CRACK, 2, 3, 9.0), (STAIN, 10, 11, 6.0))
    alone = make_patches((STAIN, 10, 11, 6.0))
    by_part = describe_region(both, around(10, 11), THRESHOLD).embedding
    by_whole = describe_region(alone, EVERYWHERE, THRESHOLD).embedding
    assert by_part @ by_whole > 0.99
    assert np.linalg.norm(by_part) == pytest.approx(1, abs=1e-5)


def test_stages_count_equally_in_a_region_whatever_their_features() -> None:
    """The features of one stage are a hundred times as large, and vary at random."""

    def staged(*defects: tuple[Tensor, int, int, float], seed: int) -> PatchFeatures:
        patches = make_patches(*defects, seed=seed)
        generator = torch.Generator().manual_seed(seed + 100)
        loud = 100 * torch.randn(SIDE, SIDE, 4, generator=generator)
        deviations = np.concatenate([loud.numpy(), patches.deviations], axis=-1)
        return replace(patches, deviations=deviations, stages=(4, DIMENSIONS))

    query = describe_region(staged((CRACK, 2, 3, 9.0), seed=1), around(2, 3), THRESHOLD)
    assert np.linalg.norm(query.direction) == pytest.approx(1, abs=1e-5)
    found = locate_region(staged((CRACK, 7, 1, 9.0), seed=2), SHAPE, query, THRESHOLD)
    assert found.similarity > 0.7
    assert abs(found.box.left - 16) <= 16
    assert abs(found.box.top - 56) <= 8


def test_good_region_matches_good_regions_only() -> None:
    """A defect in the same direction as a good region differs by its anomaly."""
    grain = make_patches((CRACK, 2, 3, 0.5))
    query = describe_region(grain, around(2, 3), THRESHOLD)
    assert query.anomaly_level < 0.1
    same = locate_region(make_patches((CRACK, 7, 1, 0.5), seed=2), SHAPE, query, THRESHOLD)
    defect = locate_region(make_patches((CRACK, 7, 1, 9.0), seed=2), SHAPE, query, THRESHOLD)
    assert same.similarity > 0.8 > 0.5 > defect.similarity


def test_patches_in_the_margin_have_no_similarity() -> None:
    seen = make_patches((CRACK, 2, 3, 9.0), margin=2)
    query = describe_region(seen, EVERYWHERE, THRESHOLD)
    found = locate_region(seen, SHAPE, query, THRESHOLD)
    assert found.heat.shape == (SIDE + 4, SIDE + 4)
    assert found.heat[:2].max() == found.heat[:, -2:].max() == 0
    assert (found.box.left + found.box.width / 2) == pytest.approx(256 * 6.5 / 20, abs=13)
    with pytest.raises(InvalidRequest, match="away from the edge"):
        describe_region(seen, region_mask(SHAPE, Region(0, 0, 4, 4)), THRESHOLD)


def test_region_smaller_than_a_patch_selects_that_patch() -> None:
    both = make_patches((CRACK, 2, 3, 9.0))
    query = describe_region(both, region_mask(SHAPE, Region(16 * 4 + 3, 8 * 3 + 2, 1, 1)), THRESHOLD)
    assert query.direction @ CRACK.numpy() > 0.9


def test_flat_surface_gives_finite_values() -> None:
    flat = replace(
        make_patches(),
        deviations=np.zeros((SIDE, SIDE, DIMENSIONS), np.float32),
        anomaly=np.zeros((SIDE, SIDE), np.float32),
    )
    query = describe_region(flat, EVERYWHERE, THRESHOLD)
    assert np.isfinite(query.embedding).all()
    found = locate_region(flat, SHAPE, query, THRESHOLD)
    assert found.similarity == 0


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (Region(-1, 0, 5, 5), "within"),
        (Region(250, 0, 7, 5), "256 x 128"),
        (Region(0, 0, 0, 5), "no area"),
        (Region(5, 5, -3, 5), "no area"),
        (Region(0, 0, 1 << 31, 1), "within"),
    ],
)
def test_invalid_regions_are_rejected(region: Region, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        region_mask(SHAPE, region)


def test_small_part_of_a_mask_counts_next_to_a_large_one() -> None:
    patches = make_patches((CRACK, 2, 3, 5.0), (STAIN, 10, 11, 9.0))
    large = around(2, 3)
    both = large.copy()
    both[8 * 11 + 2 : 8 * 11 + 4, 16 * 12 + 3 : 16 * 12 + 6] = True  # a part of one patch of the stain
    stain = torch.tensor(describe_region(patches, around(10, 11), THRESHOLD).direction)
    without, within = (
        float(torch.tensor(describe_region(patches, mask, THRESHOLD).direction) @ stain)
        for mask in (large, both)
    )
    assert within > without + 0.2
