# SPDX-License-Identifier: Apache-2.0
"""Every seed and every kept input of the fuzz targets is accepted or rejected with an expected error."""

import time

import pytest
from tests.fuzz.target import CORPUS, load, names


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


@pytest.mark.parametrize("name", names())
def test_kept_input_raises_no_unexpected_error(name: str) -> None:
    target = load(name)
    files = sorted((CORPUS / name).iterdir())
    assert files
    for file in files:
        start_s = time.thread_time()
        try:
            target.run(file.read_bytes())
        except target.expected:
            pass
        except Exception as error:
            pytest.fail(f"{file.name}: {error!r}")
        assert time.thread_time() - start_s < target.max_seconds, file.name
