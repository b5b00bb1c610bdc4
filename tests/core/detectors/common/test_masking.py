# SPDX-License-Identifier: Apache-2.0

import numpy as np
import torch

from blemish_core.detectors.common.masking import hide_ignored, patch_looks, split_looks, with_looks


def test_mask_travels_with_the_input() -> None:
    pixels = torch.rand(3, 16, 32)
    looks = np.ones((64, 128), np.bool_)
    looks[:, :40] = False
    plain = torch.rand(3, 16, 32)
    inputs, masks = split_looks([with_looks(pixels, looks), plain])
    assert torch.equal(inputs[0], pixels)
    assert torch.equal(inputs[1], plain)
    assert masks[1] is None
    assert masks[0] is not None
    assert not masks[0][:, :10].any()
    assert masks[0][:, 10:].all()


def test_patch_counts_if_half_of_its_cell_is_looked_at() -> None:
    looks = torch.ones(16, 32, dtype=torch.bool)
    looks[:, :12] = False  # one cell and a half
    assert patch_looks(looks, (2, 4)).tolist() == [[False, True, True, True]] * 2
    looks[:, 12] = False
    assert patch_looks(looks, (2, 4)).tolist() == [[False, False, True, True]] * 2


def test_at_least_one_patch_counts() -> None:
    looks = torch.zeros(16, 32, dtype=torch.bool)
    looks[9, 20] = True
    assert patch_looks(looks, (2, 4)).nonzero().tolist() == [[1, 2]]


def test_ignored_pixels_have_the_lowest_value_of_the_others() -> None:
    maps = torch.tensor([[[-5.0, 3.0], [9.0, 1.0]]])
    looks = torch.tensor([[False, True], [False, True]])
    assert hide_ignored(maps, looks).tolist() == [[[1.0, 3.0], [1.0, 1.0]]]
