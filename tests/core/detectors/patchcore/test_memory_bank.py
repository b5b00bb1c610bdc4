# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blemish_core.detectors.patchcore import memory_bank
from blemish_core.detectors.patchcore.inverted_lists import InvertedLists
from blemish_core.detectors.patchcore.memory_bank import MemoryBank

FEW_DIMENSIONS = 12


@pytest.fixture(scope="module", autouse=True)
def _banks_of_any_size_are_indexed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_bank, "INDEXED_FROM", 1)
        yield


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
def test_the_image_score_is_that_of_all_distances(
    seed: int, entries: int, patches: int, outliers: int, repeats: int, neighbors: int
) -> None:
    known = clustered(seed, entries)
    seen = clustered(seed + 1, patches)
    # Defects: far from every list, each elsewhere, some much farther than others.
    away = clustered(seed + 2, min(outliers, patches)) * torch.linspace(1, 30, FEW_DIMENSIONS)
    seen[: len(away)] += away
    seen = seen.repeat(repeats, 1)
    bank = MemoryBank(known)
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
def test_the_score_is_exact_also_relative_to_what_is_usual(seed: int, entries: int, patches: int) -> None:
    bank, seen = clustered(seed, entries), clustered(seed + 1, patches, spread=0.5)
    usual = 0.5 + torch.rand(patches, generator=torch.Generator().manual_seed(seed))
    nearest = MemoryBank(bank).nearest(seen, usual=usual)
    relative = all_distances(seen, bank).amin(1) / usual
    assert nearest.distances[nearest.farthest].item() == pytest.approx(relative.max().item(), rel=1e-5)
    assert bool((nearest.distances >= relative * (1 - 1e-5)).all())


def test_the_farthest_by_length_need_not_be_the_farthest(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = MemoryBank(torch.tensor([[0.0, 0.0], [3.0, 0.0]]))
    patches, usual = torch.tensor([[6.0, 0.0], [0.0, 1.9]]), torch.tensor([1.5, 0.5])
    # The search saw the first entry alone: the first patch is farther from it, and is looked at first.
    bounds = (np.array([6.0, 1.9], np.float32), np.zeros(2, np.int64))
    monkeypatch.setattr(InvertedLists, "search", lambda *_: bounds)
    nearest = bank.nearest(patches, usual=usual)
    assert nearest.farthest == 1
    assert nearest.distances.tolist() == pytest.approx([2, 3.8])


def test_other_entries_are_those_not_barred() -> None:
    entries, patches = clustered(1, 300), clustered(2, 40)
    barred = torch.arange(300) % 3 == 0
    found = MemoryBank(entries).distances_to_others(patches, barred)
    torch.testing.assert_close(found, all_distances(patches, entries[~barred]).amin(1).float())
    assert MemoryBank(entries).distances_to_others(patches, torch.ones(300, dtype=torch.bool)).isinf().all()


def test_supports_are_the_entries_around_each_entry() -> None:
    entries = clustered(40, 3000)
    bank = MemoryBank(entries)
    told: list[int] = []
    before = bank.bytes
    bank.find_supports(9, told.append)
    assert bank.supports is not None
    around = all_distances(entries, entries).topk(9, largest=False).indices
    assert torch.equal(bank.supports.long().sort(1).values, around.sort(1).values)
    assert bank.bytes == before + 3000 * 9 * 4
    assert told[0] == 0
    assert told[-1] == 3000
    assert told == sorted(told)


@pytest.mark.parametrize("neighbors", [1, 9])
def test_a_bank_of_one_entry_is_enough(neighbors: int) -> None:
    patches = clustered(1, 30)
    bank = MemoryBank(patches[:1])
    nearest = bank.nearest(patches)
    torch.testing.assert_close(nearest.distances, (patches - patches[0]).norm(dim=1))
    # The only entry has all the weight, so nothing is left of the score: as in anomalib.
    expected = 0.0 if neighbors > 1 else nearest.distances.max().item()
    assert bank.image_score(patches, nearest, neighbors).item() == pytest.approx(expected)


def test_what_is_in_the_bank_is_at_no_distance() -> None:
    entries = clustered(2, 500)
    bank = MemoryBank(entries)
    nearest = bank.nearest(entries[:50])
    assert nearest.distances.max() == 0
    assert bank.image_score(entries[:50], nearest, 9) == 0


def test_a_bank_of_equal_entries_scores_as_all_distances_do() -> None:
    entries = torch.ones(300, FEW_DIMENSIONS)
    patches = clustered(3, 40)
    bank = MemoryBank(entries)
    score = bank.image_score(patches, bank.nearest(patches), 9).item()
    assert score == pytest.approx(score_by_all_distances(patches, entries, 9), rel=1e-5)


def test_a_flat_frame_is_settled_by_few_of_its_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    exact, closest = MemoryBank._exact, InvertedLists.closest

    def counted(self: MemoryBank, patches: Tensor) -> tuple[Tensor, Tensor]:
        compared.append(len(patches))
        return exact(self, patches)

    def counted_one(self: InvertedLists, query: Tensor, bound: float, row: int) -> tuple[float, int]:
        compared.append(1)
        return closest(self, query, bound, row)

    monkeypatch.setattr(MemoryBank, "_exact", counted)
    monkeypatch.setattr(InvertedLists, "closest", counted_one)
    bank = MemoryBank(clustered(4, 3000))
    bank.nearest(torch.full((1024, FEW_DIMENSIONS), 1.5))
    assert 1 <= sum(compared) <= 8 + 16


def test_a_frame_of_many_outliers_is_settled_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    exact = MemoryBank._exact

    def counted(self: MemoryBank, patches: Tensor) -> tuple[Tensor, Tensor]:
        compared.append(len(patches))
        return exact(self, patches)

    monkeypatch.setattr(MemoryBank, "_exact", counted)
    # Lists that say nothing: every bound is wrong.
    entries = clustered(50, 3000, spread=1.0)
    bank = MemoryBank(entries, entries[:1].repeat(300, 1))
    patches = 5 * clustered(51, 512, spread=1.0)
    assert bank._lists is not None
    monkeypatch.setattr(
        InvertedLists,
        "search",
        lambda self, queries, grid: (
            (queries - entries[0]).norm(dim=1).numpy(),
            np.zeros(len(queries), np.int64),
        ),
    )
    nearest = bank.nearest(patches)
    distances = all_distances(patches, entries).amin(1)
    assert nearest.distances[nearest.farthest].item() == pytest.approx(distances.max().item(), rel=1e-5)
    assert compared
    assert len(compared) <= 7  # 8, 16, ... 512


def test_distances_are_close_also_where_they_need_not_be_exact() -> None:
    # Hardly any structure for lists to find: images have more (0.1 to 1 % on average).
    entries, patches = clustered(5, 5000, spread=1.0), clustered(6, 1024, spread=1.0)
    nearest = MemoryBank(entries).nearest(patches)
    excess = nearest.distances / all_distances(patches, entries).amin(1) - 1
    assert 0 < excess.mean() < 0.03  # an index that compared everything would be none


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (6, 1), (7, 9), (16, 16)])
def test_the_image_score_is_exact_where_neighbours_share_lists(grid: tuple[int, int]) -> None:
    rows, columns = grid
    known = clustered(30, 2000)
    for seed in range(8):
        seen = clustered(31 + seed, rows * columns)
        seen[seed % len(seen)] += 10 * seed
        bank = MemoryBank(known)
        nearest = bank.nearest(seen, grid)
        exact = all_distances(seen, known).amin(1).float()
        assert nearest.distances[nearest.farthest].item() == pytest.approx(exact.max().item(), rel=1e-5)
        assert (nearest.distances >= exact * (1 - 1e-5)).all()
        found = (seen - known[nearest.rows]).norm(dim=1)
        torch.testing.assert_close(nearest.distances, found, rtol=1e-5, atol=1e-6)
        score = bank.image_score(seen, nearest, 9).item()
        assert score == pytest.approx(score_by_all_distances(seen, known, 9), rel=1e-4)


def test_without_an_index_every_distance_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_bank, "INDEXED_FROM", 10_000)
    monkeypatch.setattr(memory_bank, "_SCRATCH", 1000)  # many blocks
    entries, patches = clustered(7, 3000), clustered(8, 200)
    bank = MemoryBank(entries)
    assert bank.centroids is None
    nearest = bank.nearest(patches)
    distances, rows = all_distances(patches, entries).min(1)
    torch.testing.assert_close(nearest.distances, distances.float())
    assert nearest.rows.equal(rows)
    assert nearest.farthest == distances.argmax()


def test_the_index_comes_back_from_its_centroids() -> None:
    entries, patches = clustered(9, 2000), clustered(10, 300)
    built = MemoryBank(entries)
    again = MemoryBank(entries, built.centroids)
    assert again.nearest(patches).rows.equal(built.nearest(patches).rows)
    assert again.bytes == built.bytes


def test_threads_search_one_bank_at_once() -> None:
    bank = MemoryBank(clustered(11, 3000))
    frames = [clustered(12 + number, 256) for number in range(8)]
    alone = [bank.nearest(frame) for frame in frames]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(bank.nearest, frames * 4))
    for number, nearest in enumerate(together):
        assert nearest.distances.equal(alone[number % 8].distances)
        assert nearest.rows.equal(alone[number % 8].rows)


def test_patches_that_are_not_finite_score_as_such() -> None:
    bank = MemoryBank(clustered(20, 500))
    patches = clustered(21, 64)
    patches[5] = torch.nan
    nearest = bank.nearest(patches)
    assert bank.image_score(patches, nearest, 9).isnan()


def test_bytes_count_the_bank_and_its_index() -> None:
    entries = clustered(22, 2500)
    bank = MemoryBank(entries)
    lists = int(3 * 2500**0.5)
    rows = 2500 * FEW_DIMENSIONS
    # Entries, their codes, squared lengths of both, how far codes are off, row numbers; of each list its
    # centroid, that one's squared length and its end; a step for each dimension.
    of_entries = 4 * rows + rows + 2500 * (4 + 4 + 4 + 8)
    of_lists = lists * (FEW_DIMENSIONS * 4 + 4 + 8) + 8
    assert bank.bytes == of_entries + of_lists + FEW_DIMENSIONS * 4
