# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from torch import Tensor

from blemish_core.detectors.coreset import greedy_coreset
from blemish_core.errors import JobCancelled


def textbook(points: Tensor, keep: int, first: int) -> list[int]:
    """The loop of Sener & Savarese: all points read once a pick."""
    picks = [first]
    nearest = torch.linalg.norm(points - points[first], dim=1)
    while len(picks) < keep:
        nearest[picks[-1]] = -1
        picks.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.linalg.norm(points - points[picks[-1]], dim=1))
    return picks


@pytest.mark.parametrize("candidates", [8, 64, 2048])
def test_the_picks_are_those_of_the_textbook(candidates: int) -> None:
    points = torch.randn(1500, 24, generator=torch.Generator().manual_seed(3))
    points[500:] = points[500:] * 0.3 + 2  # a dense part and a sparse one
    assert greedy_coreset(points, 200, first=7, candidates=candidates) == textbook(points, 200, 7)


def test_every_point_is_picked_once_even_among_duplicates() -> None:
    points = torch.zeros(50, 3)
    points[25:] = 1
    picks = greedy_coreset(points, 50, first=0, candidates=10)
    assert sorted(picks) == list(range(50))


def test_it_tells_how_far_it_is_and_stops_when_told() -> None:
    points = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    told: list[int] = []
    greedy_coreset(points, 100, first=0, candidates=16, on_picks=told.append)
    assert told == sorted(told)
    assert told[-1] == 100

    def stop(picked: int) -> None:
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        greedy_coreset(points, 100, first=0, candidates=16, on_picks=stop)
