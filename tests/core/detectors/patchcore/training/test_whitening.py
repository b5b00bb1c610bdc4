# SPDX-License-Identifier: Apache-2.0

import torch
from torch import Tensor

from blemish_core.detectors.patchcore.training.whitening import Whitening


def patches() -> Tensor:
    """Return (2000, 6) patches with standard deviations that decrease from direction to direction."""
    random = torch.Generator().manual_seed(3)
    return torch.randn(2000, 6, generator=random) / torch.arange(1, 7) + 5


def test_whitened_patches_have_mean_zero() -> None:
    mapped = Whitening.fit(patches()).apply(patches())
    torch.testing.assert_close(mapped.mean(0), torch.zeros(6), atol=1e-4, rtol=0)


def test_directions_of_large_variance_count_less_and_small_ones_are_not_amplified_without_limit() -> None:
    spans = Whitening.fit(patches()).apply(patches()).std(0)
    relative = spans / spans[-1] * torch.arange(1, 7) / 6
    assert (spans.diff() < 0).all()  # the order remains
    assert relative[0] < 0.8 * relative[-1]  # but the first direction lost weight


def test_matrix_is_symmetric() -> None:
    matrix = Whitening.fit(patches()).matrix
    torch.testing.assert_close(matrix, matrix.T, atol=1e-5, rtol=1e-4)


def test_blocks_of_a_large_sample_give_the_covariance_of_all() -> None:
    random = torch.Generator().manual_seed(4)
    many = torch.randn(150_000, 3, generator=random)
    many[:70_000, 0] += 4  # the mean of the first block is not that of all
    matrix = Whitening.fit(many).matrix
    covariance = torch.cov(many.double().T)
    values, vectors = torch.linalg.eigh(covariance)
    scales = (values + 5 * values.mean()).rsqrt()
    torch.testing.assert_close(matrix, ((vectors * scales) @ vectors.T).float(), atol=1e-5, rtol=1e-4)
