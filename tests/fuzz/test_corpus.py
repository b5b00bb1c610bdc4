# SPDX-License-Identifier: Apache-2.0
"""The seeds of the fuzz targets."""

import pytest
from tests.fuzz.target import load, names


@pytest.mark.parametrize("name", names())
def test_target_accepts_its_seeds_or_rejects_them_as_expected(name: str) -> None:
    target = load(name)
    accepted = 0
    for seed in target.seeds().values():
        try:
            target.run(seed)
        except target.expected:
            continue
        accepted += 1
    assert accepted, "every seed is rejected, so mutations start far from valid inputs"
