# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from blemish_core.detectors.patchcore.training.coreset import greedy_coreset
from blemish_core.platform.errors import JobCancelled


def textbook(points: Tensor, keep: int, first: int) -> list[int]:
    """Pick points by the loop of Sener & Savarese, which reads all points for each pick."""
    points = points.double()
    picks = [first]
    nearest = torch.linalg.norm(points - points[first], dim=1)
    while len(picks) < keep:
        nearest[picks[-1]] = -1
        picks.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.linalg.norm(points - points[picks[-1]], dim=1))
    return picks


def two_clouds() -> Tensor:
    points = torch.randn(1500, 24, generator=torch.Generator().manual_seed(3))
    points[500:] = points[500:] * 0.3 + 2  # a dense part and a sparse one
    return points


@pytest.mark.parametrize("candidates", [1, 8, 64, 2048])
def test_picks_equal_the_textbook_loop(candidates: int) -> None:
    points = two_clouds()
    assert greedy_coreset(points, 200, first=7, candidates=candidates) == textbook(points, 200, 7)


@pytest.mark.parametrize("rows", [13, 97, 1500])
def test_block_size_changes_no_pick(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = two_clouds()
    expected = textbook(points, 60, 7)
    monkeypatch.setattr("blemish_core.detectors.patchcore.training.coreset._ROWS_ON_CPU", rows)
    monkeypatch.setattr("blemish_core.detectors.patchcore.training.coreset._PICKS", 11)
    assert greedy_coreset(points, 60, first=7, candidates=32) == expected


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("candidates", [16, 2048])
def test_points_that_coincide_in_float32_products_are_distinguished(offset: float, candidates: int) -> None:
    """Pick from five distant groups, each so dense that |x|^2 - 2 x.y + |y|^2 is rounding error."""
    random = torch.Generator().manual_seed(5)
    groups = 50 * torch.randn(5, 1, 16, generator=random)
    points = (offset + groups + 1e-2 * torch.randn(5, 80, 16, generator=random)).flatten(0, 1)
    assert greedy_coreset(points, 300, first=3, candidates=candidates) == textbook(points, 300, 3)


@pytest.mark.parametrize("candidates", [1, 10, 2048])
def test_duplicates_are_picked_once_each(candidates: int) -> None:
    points = torch.zeros(50, 3)
    points[25:] = 1
    picks = greedy_coreset(points, 50, first=0, candidates=candidates)
    assert sorted(picks) == list(range(50))
    assert picks[1] >= 25


@pytest.mark.parametrize("candidates", [10, 2048])
def test_distinct_points_are_picked_before_duplicates(candidates: int) -> None:
    different = 10 * torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
    points = different.repeat(20, 1)
    picks = greedy_coreset(points, 45, first=0, candidates=candidates)
    assert sorted(row % 40 for row in picks[:40]) == list(range(40))
    assert len(set(picks)) == 45


def test_identical_points_give_the_requested_number_of_picks() -> None:
    picks = greedy_coreset(torch.full((3000, 152), 0.37), 300, first=8, candidates=64)
    assert len(set(picks)) == 300


def test_excluded_points_are_never_picked_and_change_no_pick() -> None:
    points = two_clouds()
    excluded = torch.zeros(1500, dtype=torch.bool)
    excluded[::3] = True
    allowed = torch.nonzero(~excluded)[:, 0]
    expected = [int(allowed[row]) for row in textbook(points[allowed], 200, 4)]
    picks = greedy_coreset(points, 200, int(allowed[4]), excluded=excluded, candidates=64)
    assert picks == expected


def test_points_of_a_mapped_file_give_the_same_picks(tmp_path: Path) -> None:
    points = two_clouds()
    np.save(tmp_path / "points.npy", points.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "points.npy", mmap_mode="r+"))
    assert greedy_coreset(mapped, 100, first=1) == greedy_coreset(points, 100, first=1)


def test_every_tensor_is_created_on_the_device_of_the_points() -> None:
    """A tensor without explicit device would be created on the default one and fail to mix."""
    points, excluded = two_clouds(), torch.zeros(1500, dtype=torch.bool)
    expected = textbook(points, 60, 7)
    with torch.device("meta"):
        assert greedy_coreset(points, 60, first=7, excluded=excluded, candidates=32) == expected


@pytest.mark.parametrize("keep", [0, 11])
def test_invalid_number_of_picks_is_rejected(keep: int) -> None:
    with pytest.raises(ValueError, match=f"cannot pick {keep} of 10 points"):
        greedy_coreset(torch.randn(10, 3), keep, first=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_points_that_are_not_finite_are_rejected(value: float) -> None:
    points = torch.zeros(10, 3)
    points[4, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        greedy_coreset(points, 3, first=0)


def test_progress_is_reported_after_each_block_and_can_stop_the_selection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blemish_core.detectors.patchcore.training.coreset._ROWS_ON_CPU", 50)
    points = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    reported: list[int] = []
    greedy_coreset(points, 100, first=0, candidates=16, on_picks=reported.append)
    assert reported == sorted(reported)
    assert reported.count(1) > 8, "not after each block of 50 points"
    assert reported[-1] == 100

    def stop(picked: int) -> None:
        raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        greedy_coreset(points, 100, first=0, candidates=16, on_picks=stop)
