# SPDX-License-Identifier: Apache-2.0

import os

import numpy as np
import pytest
import torch

from blemish_core.detectors.patchcore.inverted_lists import InvertedLists
from blemish_core.platform.threads import all_cores

DIMENSIONS = 12


def entries(seed: int, count: int) -> torch.Tensor:
    return torch.randn(count, DIMENSIONS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("grid", [(7, 9), (8, 8), (3, 10), (1, 5), (6, 1)])
def test_similar_neighbours_find_the_same_as_each_alone(grid: tuple[int, int]) -> None:
    rows, columns = grid
    cells = entries(1, 25).reshape(5, 5, DIMENSIONS)
    image = cells.repeat_interleave(2, 0).repeat_interleave(2, 1)[:rows, :columns].flatten(0, 1).numpy()
    lists = InvertedLists.build(entries(2, 3000).numpy())
    distances, found = lists.search(image, grid)
    alone, found_alone = lists.search(image)
    np.testing.assert_allclose(distances, alone, rtol=1e-6)
    assert (found == found_alone).all()


def test_distances_are_those_of_the_entries_found() -> None:
    known, image = entries(3, 3000), entries(4, 32 * 32)
    lists = InvertedLists.build(known.numpy())
    distances, found = lists.search(image.numpy(), (32, 32))
    reported = (image - known[torch.from_numpy(found)]).norm(dim=1)
    np.testing.assert_allclose(distances, reported, rtol=1e-5)
    alone, _ = lists.search(image.numpy())
    # Four dissimilar patches read lists that are near none of them.
    assert distances.mean() > alone.mean()


def test_search_on_all_cores_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    known, image = entries(6, 3000).numpy(), entries(7, 32 * 32).numpy()
    lists = InvertedLists.build(known)
    shared = *lists.search(image, (32, 32)), lists.closest(image[0], np.inf, 0)
    with all_cores():
        alone = *lists.search(image, (32, 32)), lists.closest(image[0], np.inf, 0)
    for one, other in zip(shared, alone, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("grid", [None, (2, 2)])
def test_nan_queries_are_infinitely_far(grid: tuple[int, int] | None) -> None:
    lists = InvertedLists.build(entries(5, 200).numpy())
    distances, found = lists.search(np.full((4, DIMENSIONS), np.nan, np.float32), grid)
    assert np.isinf(distances).all()
    assert (found == 0).all()
