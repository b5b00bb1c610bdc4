# SPDX-License-Identifier: Apache-2.0

from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blemish_core.detectors.patchcore.inverted_lists import InvertedLists
from blemish_core.detectors.patchcore.memory_bank import MemoryBank

FEW_DIMENSIONS = 12


def indexed(entries: Tensor) -> MemoryBank:
    return MemoryBank(entries, indexed_from=1)


def all_distances(patches: Tensor, entries: Tensor) -> Tensor:
    return torch.cdist(patches.double(), entries.double(), compute_mode="donot_use_mm_for_euclid_dist")


def score_by_all_distances(patches: Tensor, entries: Tensor, neighbors: int) -> float:
    """Equation 7 of the paper, in double precision."""
    distances, rows = all_distances(patches, entries).min(1)
    farthest = distances.argmax()
    around = all_distances(entries[rows[farthest]][None], entries)[0]
    support = around.topk(min(neighbors, len(entries)), largest=False).indices
    to_support = all_distances(patches[farthest][None], entries[support])[0]
    return float(distances[farthest] * (1 - to_support.softmax(0)[0]))


def clustered(seed: int, count: int, *, clusters: int = 20, spread: float = 0.3) -> Tensor:
    """Points around the same centres for every seed."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(clusters, FEW_DIMENSIONS, generator=torch.Generator().manual_seed(0))
    which = torch.randint(clusters, (count,), generator=generator)
    return centers[which] + spread * torch.randn(count, FEW_DIMENSIONS, generator=generator)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    entries=st.integers(1, 400),
    patches=st.integers(1, 80),
    outliers=st.integers(0, 40),
    repeats=st.integers(1, 3),
    neighbors=st.sampled_from([1, 2, 9]),
)
def test_image_score_equals_that_of_all_distances(
    seed: int, entries: int, patches: int, outliers: int, repeats: int, neighbors: int
) -> None:
    known = clustered(seed, entries)
    seen = clustered(seed + 1, patches)
    # Defects: far from every list, at different distances.
    away = clustered(seed + 2, min(outliers, patches)) * torch.linspace(1, 30, FEW_DIMENSIONS)
    seen[: len(away)] += away
    seen = seen.repeat(repeats, 1)
    bank = indexed(known)
    nearest = bank.nearest(seen)
    exact = all_distances(seen, known).amin(1).float()
    assert nearest.distances[nearest.farthest].item() == pytest.approx(exact.max().item(), rel=1e-5)
    assert (nearest.distances >= exact * (1 - 1e-5)).all()
    torch.testing.assert_close(
        nearest.distances, (seen - known[nearest.rows]).norm(dim=1), rtol=1e-5, atol=1e-6
    )
    score = bank.image_score(seen, nearest, neighbors).item()
    expected = exact.max().item() if neighbors == 1 else score_by_all_distances(seen, known, neighbors)
    assert score == pytest.approx(expected, rel=1e-4)
    bank.find_supports(neighbors, lambda done: None)
    assert bank.image_score(seen, nearest, neighbors).item() == pytest.approx(expected, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), entries=st.integers(1, 400), patches=st.integers(1, 80))
def test_normalised_distance_of_the_farthest_patch_is_exact(seed: int, entries: int, patches: int) -> None:
    bank, seen = clustered(seed, entries), clustered(seed + 1, patches, spread=0.5)
    expected = 0.5 + torch.rand(patches, generator=torch.Generator().manual_seed(seed))
    nearest = indexed(bank).nearest(seen, expected=expected)
    relative = all_distances(seen, bank).amin(1) / expected
    assert nearest.distances[nearest.farthest].item() == pytest.approx(relative.max().item(), rel=1e-5)
    assert bool((nearest.distances >= relative * (1 - 1e-5)).all())


def test_farthest_patch_is_chosen_by_normalised_distance() -> None:
    bank = indexed(torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    # The first patch is farther by length, the second one relative to what is expected.
    patches, expected = torch.tensor([[6.0, 0.0], [0.0, 1.9]]), torch.tensor([1.5, 0.5])
    nearest = bank.nearest(patches, expected=expected)
    assert nearest.farthest == 1
    assert nearest.distances.tolist() == pytest.approx([2, 3.8])


def test_distances_to_others_ignore_excluded_entries() -> None:
    entries, patches = clustered(1, 300), clustered(2, 40)
    excluded = torch.arange(300) % 3 == 0
    found = indexed(entries).distances_to_others(patches, excluded)
    torch.testing.assert_close(found, all_distances(patches, entries[~excluded]).amin(1).float())
    assert indexed(entries).distances_to_others(patches, torch.ones(300, dtype=torch.bool)).isinf().all()


def test_supports_are_the_entries_around_each_entry() -> None:
    entries = clustered(40, 3000)
    bank = indexed(entries)
    reported: list[int] = []
    before = bank.bytes
    bank.find_supports(9, reported.append)
    assert bank.supports is not None
    around = all_distances(entries, entries).topk(9, largest=False).indices
    assert torch.equal(bank.supports.long().sort(1).values, around.sort(1).values)
    assert bank.bytes == before + 3000 * 9 * 4
    assert reported[0] == 0
    assert reported[-1] == 3000
    assert reported == sorted(reported)


@pytest.mark.parametrize("neighbors", [1, 9])
def test_bank_of_one_entry_scores_patches(neighbors: int) -> None:
    patches = clustered(1, 30)
    bank = indexed(patches[:1])
    nearest = bank.nearest(patches)
    torch.testing.assert_close(nearest.distances, (patches - patches[0]).norm(dim=1))
    # The only entry has all the weight, so the score is 0, as in anomalib.
    expected = 0.0 if neighbors > 1 else nearest.distances.max().item()
    assert bank.image_score(patches, nearest, neighbors).item() == pytest.approx(expected)


def test_entries_of_the_bank_have_distance_zero() -> None:
    entries = clustered(2, 500)
    bank = indexed(entries)
    nearest = bank.nearest(entries[:50])
    assert nearest.distances.max() == 0
    assert bank.image_score(entries[:50], nearest, 9) == 0


def test_bank_of_equal_entries_scores_as_all_distances_do() -> None:
    entries = torch.ones(300, FEW_DIMENSIONS)
    patches = clustered(3, 40)
    bank = indexed(entries)
    score = bank.image_score(patches, bank.nearest(patches), 9).item()
    assert score == pytest.approx(score_by_all_distances(patches, entries, 9), rel=1e-5)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Return a spy that is called once for each round of exact searches but the last."""
    spy = Mock(wraps=torch.cdist)
    monkeypatch.setattr(torch, "cdist", spy)
    return spy


def test_flat_frame_needs_few_exact_searches(rounds: Mock) -> None:
    bank = indexed(clustered(4, 3000))
    nearest = bank.nearest(torch.full((1024, FEW_DIMENSIONS), 1.5))
    assert rounds.call_count <= 3  # of 1, 2, 4 patches
    assert nearest.distances.equal(nearest.distances[:1].expand(1024))


def test_frame_of_outliers_that_no_list_covers_doubles_its_searches(rounds: Mock) -> None:
    entries = clustered(50, 6000, spread=1.0)
    # All entries belong to the list at zero, while patches read lists of outliers, which are empty.
    centers = torch.randn(20, FEW_DIMENSIONS, generator=torch.Generator().manual_seed(0))
    outliers = 5 * centers.repeat(6, 1)
    centroids = torch.cat([torch.zeros(1, FEW_DIMENSIONS), outliers])
    patches = 5 * clustered(51, 512, spread=1.0)
    bounds, _ = InvertedLists(entries.numpy(), centroids.numpy()).search(patches.numpy())
    assert np.isinf(bounds).mean() > 0.5
    nearest = MemoryBank(entries, centroids, indexed_from=1).nearest(patches)
    searches = rounds.call_count
    distances = all_distances(patches, entries).amin(1)
    assert nearest.distances[nearest.farthest].item() == pytest.approx(distances.max().item(), rel=1e-5)
    assert 1 <= searches <= 9  # 1, 2, 4, ... 512 patches


def test_inexact_distances_are_close_upper_bounds() -> None:
    # Points with little structure, a harder case for lists than images.
    entries, patches = clustered(5, 5000, spread=1.0), clustered(6, 1024, spread=1.0)
    nearest = indexed(entries).nearest(patches)
    excess = nearest.distances / all_distances(patches, entries).amin(1) - 1
    assert 0 < excess.mean() < 0.03  # an exhaustive search would have no excess


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (6, 1), (7, 9), (16, 16)])
def test_image_score_is_exact_if_neighbours_share_lists(grid: tuple[int, int]) -> None:
    rows, columns = grid
    known = clustered(30, 2000)
    for seed in range(8):
        seen = clustered(31 + seed, rows * columns)
        seen[seed % len(seen)] += 10 * seed
        bank = indexed(known)
        nearest = bank.nearest(seen, grid)
        exact = all_distances(seen, known).amin(1).float()
        assert nearest.distances[nearest.farthest].item() == pytest.approx(exact.max().item(), rel=1e-5)
        assert (nearest.distances >= exact * (1 - 1e-5)).all()
        found = (seen - known[nearest.rows]).norm(dim=1)
        torch.testing.assert_close(nearest.distances, found, rtol=1e-5, atol=1e-6)
        score = bank.image_score(seen, nearest, 9).item()
        assert score == pytest.approx(score_by_all_distances(seen, known, 9), rel=1e-4)


def test_bank_without_index_has_exact_distances() -> None:
    entries = clustered(7, 3000)
    patches = clustered(8, 4096)  # enough for several blocks of entries
    bank = MemoryBank(entries, indexed_from=10_000)
    assert bank.centroids is None
    nearest = bank.nearest(patches)
    distances, rows = all_distances(patches, entries).min(1)
    torch.testing.assert_close(nearest.distances, distances.float())
    assert (nearest.rows == rows).double().mean() > 0.99  # rounding decides near ties
    assert nearest.farthest == distances.argmax()


def test_index_is_rebuilt_from_its_centroids() -> None:
    entries, patches = clustered(9, 2000), clustered(10, 300)
    built = indexed(entries)
    again = MemoryBank(entries, built.centroids, indexed_from=1)
    assert again.nearest(patches).rows.equal(built.nearest(patches).rows)
    assert again.bytes == built.bytes


def test_concurrent_searches_give_the_same_results() -> None:
    bank = indexed(clustered(11, 3000))
    frames = [clustered(12 + number, 256) for number in range(8)]
    alone = [bank.nearest(frame) for frame in frames]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(bank.nearest, frames * 4))
    for number, nearest in enumerate(together):
        assert nearest.distances.equal(alone[number % 8].distances)
        assert nearest.rows.equal(alone[number % 8].rows)


def test_patch_that_is_not_finite_gives_nan_score() -> None:
    bank = indexed(clustered(20, 500))
    patches = clustered(21, 64)
    patches[5] = torch.nan
    nearest = bank.nearest(patches)
    assert bank.image_score(patches, nearest, 9).isnan()


def test_bytes_count_the_bank_and_its_index() -> None:
    entries = clustered(22, 2500)
    bank = indexed(entries)
    lists = int(3 * 2500**0.5)
    rows = 2500 * FEW_DIMENSIONS
    # Per entry: values, code, squared lengths of both, error of the code, row number. Per list: centroid,
    # its squared length and its end. Per dimension: a step.
    of_entries = 4 * rows + rows + 2500 * (4 + 4 + 4 + 8)
    of_lists = lists * (FEW_DIMENSIONS * 4 + 4 + 8) + 8
    assert bank.bytes == of_entries + of_lists + FEW_DIMENSIONS * 4
