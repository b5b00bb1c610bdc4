# SPDX-License-Identifier: Apache-2.0
"""Memory of the worst images; ``tests.benchmarks.bench_bounds`` prints the figures."""

from pathlib import Path

import pytest
from tests.support.bounds import measure, most_bytes
from tests.support.worst_images import WORST_IMAGES

SIDE = 1024


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    found = []
    for number, build in enumerate(WORST_IMAGES.values()):
        found.append(folder / str(number))
        found[-1].write_bytes(build(SIDE))
    return found


@pytest.mark.parametrize("entry", ["decode", "mask of an image"])
def test_memory_is_bounded_by_the_allowed_pixels_and_the_bytes_received(
    files: list[Path], entry: str
) -> None:
    measured = measure(entry, files, SIDE * SIDE)
    excess = {
        name: f"{each.peak_bytes >> 20} MiB for {each.input_bytes >> 20} MiB"
        for name, each in zip(WORST_IMAGES, measured, strict=True)
        if each.peak_bytes > most_bytes(SIDE * SIDE, each.input_bytes)
    }
    assert excess == {}
    if entry == "decode":
        assert sum(each.outcome == "accepted" for each in measured) == len(WORST_IMAGES) - 2
