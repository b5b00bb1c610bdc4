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
def test_image_is_altered_only_at_its_mask(seed: int) -> None:
    before = picture()
    kept = before.clone()
    after, mask = alter(before, np.random.default_rng(seed))
    assert torch.equal(before, kept)
    assert (after.shape, after.dtype, mask.shape, mask.dtype) == (
        (3, 64, 64),
        torch.float32,
        (64, 64),
        torch.bool,
    )
    assert after.isfinite().all()
    assert 6 <= mask.sum() <= 64 * 64 / 8
    change = (after - before).abs().amax(0)
    assert change.max() > 0.05
    # The edge is soft by about a pixel, so pixels five away from the mask do not change.
    far = ndimage.distance_transform_edt(~mask.numpy()) > 5
    assert change.numpy()[far].max() < 1e-3


@pytest.mark.parametrize("seed", range(40))
def test_alteration_of_a_white_surface_is_visible(seed: int) -> None:
    """Clipping at white must not hide the alteration."""
    white = torch.ones(3, 64, 64)
    white[:, ::16] = 0.8
    after, _ = alter(white, np.random.default_rng(seed))
    assert (after - white).abs().max() >= 0.06 * (white.max() - white.min())


def test_equal_seeds_give_equal_alterations() -> None:
    first, again, other = (alter(picture(), np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_alterations_grow_with_the_image() -> None:
    def share(side: int) -> float:
        masks = (alter(picture(side), np.random.default_rng(seed))[1] for seed in range(100))
        return float(np.mean([float(mask.float().mean()) for mask in masks]))

    assert share(128) == pytest.approx(share(256), rel=0.4)


def test_image_of_one_colour_stays_finite() -> None:
    for seed in range(20):
        after, mask = alter(torch.full((3, 64, 64), 0.3), np.random.default_rng(seed))
        assert after.isfinite().all()
        assert mask.any()


def test_disturbed_image_correlates_with_the_original() -> None:
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
