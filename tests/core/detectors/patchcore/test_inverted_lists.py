# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch

from blemish_core.detectors.patchcore.inverted_lists import InvertedLists

DIMENSIONS = 12


def entries(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, DIMENSIONS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", [(7, 9), (8, 8), (3, 10), (1, 5), (6, 1)])
def test_neighbours_that_are_alike_find_what_each_finds_alone(grid: tuple[int, int]) -> None:
    rows, columns = grid
    cells = entries(1, 25).reshape(5, 5, DIMENSIONS)
    image = cells.repeat_interleave(2, 0).repeat_interleave(2, 1)[:rows, :columns].flatten(0, 1)
    lists = InvertedLists.build(entries(2, 3000))
    distances, found = lists.search(image, grid)
    alone, found_alone = lists.search(image)
    np.testing.assert_allclose(distances, alone, rtol=1e-6)
    assert (found == found_alone).all()


def test_neighbours_share_their_lists_and_find_an_entry_as_far_as_told() -> None:
    known, image = entries(3, 3000), entries(4, 32 * 32)
    lists = InvertedLists.build(known)
    distances, found = lists.search(image, (32, 32))
    told = (image - known[torch.from_numpy(found)]).norm(dim=1)
    np.testing.assert_allclose(distances, told, rtol=1e-5)
    alone, _ = lists.search(image)
    # Of four that are nothing alike, each reads what is near to none of them.
    assert distances.mean() > alone.mean()


@pytest.mark.parametrize("grid", [None, (2, 2)])
def test_what_cannot_be_found_is_infinitely_far(grid: tuple[int, int] | None) -> None:
    lists = InvertedLists.build(entries(5, 200))
    distances, found = lists.search(torch.full((4, DIMENSIONS), torch.nan), grid)
    assert np.isinf(distances).all()
    assert (found == 0).all()
