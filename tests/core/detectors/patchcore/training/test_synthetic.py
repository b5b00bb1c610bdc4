# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from blemish_core.detectors.patchcore.training.synthetic import alter, disturb


def picture(side: int = 64) -> Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("seed", range(60))
def test_an_image_is_altered_in_a_spot_and_nowhere_else(seed: int) -> None:
    before = picture()
    kept = before.clone()
    after, spot = alter(before, np.random.default_rng(seed))
    assert torch.equal(before, kept)
    assert (after.shape, after.dtype, spot.shape, spot.dtype) == (
        (3, 64, 64),
        torch.float32,
        (64, 64),
        torch.bool,
    )
    assert after.isfinite().all()
    assert 6 <= spot.sum() <= 64 * 64 / 8
    change = (after - before).abs().amax(0)
    assert change.max() > 0.05
    # The edge is soft by a pixel or less: what lies five away from the spot stays.
    far = ndimage.distance_transform_edt(~spot.numpy()) > 5
    assert change.numpy()[far].max() < 1e-3


@pytest.mark.parametrize("seed", range(40))
def test_a_white_surface_is_altered_where_it_can_be_seen(seed: int) -> None:
    """What would be whiter than white is white: no alteration."""
    white = torch.ones(3, 64, 64)
    white[:, ::16] = 0.8
    after, _ = alter(white, np.random.default_rng(seed))
    assert (after - white).abs().max() >= 0.06 * (white.max() - white.min())


def test_the_same_draw_alters_alike_and_another_otherwise() -> None:
    first, again, other = (alter(picture(), np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_is_altered_grows_with_the_image() -> None:
    def share(side: int) -> float:
        spots = (alter(picture(side), np.random.default_rng(seed))[1] for seed in range(100))
        return float(np.mean([float(spot.float().mean()) for spot in spots]))

    assert share(128) == pytest.approx(share(256), rel=0.4)


def test_an_image_of_one_colour_is_no_trouble() -> None:
    for seed in range(20):
        after, spot = alter(torch.full((3, 64, 64), 0.3), np.random.default_rng(seed))
        assert after.isfinite().all()
        assert spot.any()


def test_what_is_disturbed_is_the_same_picture_seen_otherwise() -> None:
    before = picture(64)
    kept = before.clone()
    means = []
    for seed in range(30):
        after, where = disturb(before, np.random.default_rng(seed))
        assert where.all()
        assert (after.shape, after.dtype) == (before.shape, torch.float32)
        assert 0 <= after.min() <= after.max() <= 1
        alike = torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1]
        assert 0.8 < alike < 1
        means.append(float(after.mean()))
    assert torch.equal(before, kept)
    assert min(means) < 0.95 * float(before.mean()) < 1.05 * float(before.mean()) < max(means)
    first, again = (disturb(before, np.random.default_rng(3))[0] for _ in range(2))
    assert torch.equal(first, again)
