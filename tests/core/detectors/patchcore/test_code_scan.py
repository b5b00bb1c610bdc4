# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blemish_core.detectors.patchcore.inverted_lists import InvertedLists


def near(seed: int, count: int, dimensions: int, *, offset: float = 0.0) -> torch.Tensor:
    """Return points along few directions, like features, away from the origin."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(3, dimensions, generator=torch.Generator().manual_seed(0))
    along = torch.randn(count, 3, generator=generator) @ few
    return offset + along + 0.05 * torch.randn(count, dimensions, generator=generator)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 300),
    dimensions=st.sampled_from([1, 7, 16, 152]),
    offset=st.sampled_from([0.0, 3.0, 100.0]),
    away=st.sampled_from([0.0, 0.01, 1.0, 50.0]),
    known=st.booleans(),
    coarse=st.booleans(),
)
def test_exact_search_finds_the_nearest_entry_with_coarse_codes(
    seed: int, count: int, dimensions: int, offset: float, away: float, known: bool, coarse: bool
) -> None:
    entries = near(seed, count, dimensions, offset=offset)
    if coarse:  # steps so wide that many entries have equal codes
        entries[0] *= 100
    lists = InvertedLists.build(entries.numpy())
    patch = entries[seed % count] + away * torch.randn(
        dimensions, generator=torch.Generator().manual_seed(seed)
    )
    exact = np.linalg.norm(patch.double().numpy() - entries.double().numpy(), axis=1)
    start = (float(exact[0]), 0) if known else (np.inf, 0)
    distance, row = lists.closest(patch.numpy(), *start)
    assert distance == pytest.approx(exact.min(), rel=1e-5, abs=1e-6 * (offset + 1))
    assert exact[row] == pytest.approx(exact.min(), rel=1e-5, abs=1e-6 * (offset + 1))


def test_exact_search_is_not_misled_by_rounding() -> None:
    # Exact codes of entries so long that their distances nearly coincide in single precision.
    signs = torch.where(torch.arange(152) % 3 == 0, -127.0, 127.0)
    entries = signs * (1 - torch.eye(152) / 127)
    lists = InvertedLists.build(entries.numpy())
    for seed in range(20):
        patch = signs + 0.3 * torch.randn(152, generator=torch.Generator().manual_seed(seed))
        exact = np.linalg.norm(patch.double().numpy() - entries.double().numpy(), axis=1)
        distance, row = lists.closest(patch.numpy(), np.inf, 0)
        assert distance == pytest.approx(exact.min(), rel=1e-5)
        assert row == exact.argmin()


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_several_threads_find_the_same_as_one(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    entries, image = near(1, 3000, 24), near(2, 9 * 7, 24).numpy()
    lists = InvertedLists.build(entries.numpy())
    alone = lists.search(image, (9, 7)), lists.closest(image[0], np.inf, 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    shared = lists.search(image, (9, 7)), lists.closest(image[0], np.inf, 0)
    np.testing.assert_array_equal(alone[0][0], shared[0][0])
    np.testing.assert_array_equal(alone[0][1], shared[0][1])
    assert alone[1] == shared[1]


def test_list_with_an_odd_number_of_entries_is_read_completely() -> None:
    for count in range(1, 12):
        entries = near(3, count, 5)
        lists = InvertedLists(entries.numpy(), entries[:1].numpy())  # one list
        distances, rows = lists.search(entries.numpy())
        np.testing.assert_array_equal(rows, np.arange(count))
        assert (distances == 0).all()


def test_codes_take_a_quarter_of_the_memory_of_entries() -> None:
    entries = near(4, 2000, 152)
    lists = InvertedLists.build(entries.numpy())
    assert lists.bytes < 0.4 * entries.nbytes
