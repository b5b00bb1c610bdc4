# SPDX-License-Identifier: Apache-2.0
"""Altered good images."""

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish_core.evaluation.alteration import altered


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (96, 160, 3), dtype=np.uint8)


def test_alteration_changes_one_small_place(image: NDArray[np.uint8]) -> None:
    before = image.copy()
    for seed in range(20):
        rows, columns = (altered(image, seed) != image).any(axis=2).nonzero()
        assert 0 < np.ptp(rows) < 20
        assert 0 < np.ptp(columns) < 20
    assert np.array_equal(image, before)


def test_equal_seeds_alter_alike_and_others_do_not(image: NDArray[np.uint8]) -> None:
    assert np.array_equal(altered(image, 1), altered(image, 1))
    assert not np.array_equal(altered(image, 1), altered(image, 2))


@pytest.mark.parametrize("shape", [(4, 300, 3), (300, 5, 3)])
def test_narrow_images_are_altered_too(shape: tuple[int, int, int]) -> None:
    narrow = np.random.default_rng(6).integers(0, 256, shape, dtype=np.uint8)
    assert altered(narrow, 0).shape == shape
