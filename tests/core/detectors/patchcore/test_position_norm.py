# SPDX-License-Identifier: Apache-2.0

import pytest
import torch

from blemish_core.detectors.patchcore.position_norm import expected_distances

GRID = (12, 16)
POSITIONS = 12 * 16


def noisy(images: int) -> torch.Tensor:
    """Return distances of good patches that are a fifth farther in the left half."""
    distances = torch.rand(images, *GRID, generator=torch.Generator().manual_seed(5)) + 0.5
    distances[..., :8] *= 1.2
    return 7 * distances.flatten(1)


def test_expected_distances_do_not_depend_on_the_unit() -> None:
    expected = expected_distances(noisy(200), GRID).reshape(*GRID)
    assert expected.mean().item() == pytest.approx(1, abs=0.01)
    assert (expected[:, :6].mean() / expected[:, 10:].mean()).item() == pytest.approx(1.2, abs=0.03)
    torch.testing.assert_close(expected_distances(noisy(200) * 100, GRID), expected.flatten())


def test_few_images_are_smoothed_more_than_many() -> None:
    few, many = expected_distances(noisy(2), GRID), expected_distances(noisy(200), GRID)
    assert (few - 1).abs().mean() < (many - 1).abs().mean()
    mixed = torch.randperm(POSITIONS, generator=torch.Generator().manual_seed(6))
    assert expected_distances(noisy(2)[:, mixed], GRID).std() < 0.05  # single patches deviate by 0.3


@pytest.mark.parametrize("distances", [torch.empty(0, POSITIONS), torch.zeros(3, POSITIONS)])
def test_expected_distances_without_data_are_one(distances: torch.Tensor) -> None:
    assert expected_distances(distances, GRID).equal(torch.ones(POSITIONS))


def test_position_without_distance_leaves_others_finite() -> None:
    distances = noisy(50)
    distances[:, :64] = 0
    expected = expected_distances(distances, GRID)
    assert expected.min() > 0.1
