# SPDX-License-Identifier: Apache-2.0

import pytest
import torch

from blemish_core.detectors.patchcore.position_norm import expected_distances

GRID = (12, 16)
PLACES = 12 * 16


def noisy(images: int) -> torch.Tensor:
    """Distances of good patches that are a fifth farther in the left half."""
    distances = torch.rand(images, *GRID, generator=torch.Generator().manual_seed(5)) + 0.5
    distances[..., :8] *= 1.2
    return 7 * distances.flatten(1)


def test_what_is_usual_at_a_place_is_found_whatever_the_unit() -> None:
    usual = expected_distances(noisy(200), GRID).reshape(*GRID)
    assert usual.mean().item() == pytest.approx(1, abs=0.01)
    assert (usual[:, :6].mean() / usual[:, 10:].mean()).item() == pytest.approx(1.2, abs=0.03)
    torch.testing.assert_close(expected_distances(noisy(200) * 100, GRID), usual.flatten())


def test_a_few_images_say_less_of_a_place_than_many() -> None:
    few, many = expected_distances(noisy(2), GRID), expected_distances(noisy(200), GRID)
    assert (few - 1).abs().mean() < (many - 1).abs().mean()
    mixed = torch.randperm(PLACES, generator=torch.Generator().manual_seed(6))
    assert expected_distances(noisy(2)[:, mixed], GRID).std() < 0.05  # 0.3 of a single patch


@pytest.mark.parametrize("distances", [torch.empty(0, PLACES), torch.zeros(3, PLACES)])
def test_nothing_known_is_the_same_everywhere(distances: torch.Tensor) -> None:
    assert expected_distances(distances, GRID).equal(torch.ones(PLACES))


def test_a_place_without_distance_does_not_make_others_infinite() -> None:
    distances = noisy(50)
    distances[:, :64] = 0
    usual = expected_distances(distances, GRID)
    assert usual.min() > 0.1
