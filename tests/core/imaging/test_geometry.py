# SPDX-License-Identifier: Apache-2.0

from itertools import pairwise

import numpy as np
import pytest

from blemish_core.imaging.geometry import (
    MAX_PIXELS,
    STEP,
    Scale,
    Square,
    scale_for_defect,
    scale_for_side,
    spans,
)
from blemish_core.platform.errors import InvalidImage, InvalidRequest

SEED = 20_262


def test_square_ignores_the_aspect_ratio() -> None:
    assert Square(256).input_size((300, 4000)) == (256, 256)


@pytest.mark.parametrize(
    ("frame", "factor", "size"),
    [
        ((320, 800), 1.0, (320, 800)),
        ((2048, 2448), 1 / 3, (688, 816)),
        ((256, 4096), 1.25, (320, 5120)),
        ((20, 10_000), 0.5, (64, 4992)),  # no side is shorter than the network needs
    ],
)
def test_scale_keeps_the_aspect_ratio(frame: tuple[int, int], factor: float, size: tuple[int, int]) -> None:
    assert Scale(factor).input_size(frame) == size


def test_frame_too_large_at_the_scale_is_rejected_with_the_sizes() -> None:
    with pytest.raises(
        InvalidImage, match=r"10000 x 9000 px, 10000 x 8992 at the model's scale of 1; send"
    ):
        Scale(1.0).input_size((9000, 10_000))


def test_every_pixel_is_kept_by_one_tile_and_tiles_overlap() -> None:
    random = np.random.default_rng(SEED)
    for _ in range(200):
        longest = STEP * int(random.integers(20, 80))
        overlap = STEP * int(random.integers(1, 10))
        length = STEP * int(random.integers(4, 2000))
        tiles = spans(length, longest, overlap)
        told = f"length {length}, longest {longest}, overlap {overlap}, seed {SEED}"
        assert tiles[0].keep_begin == 0, told
        assert tiles[-1].keep_end == length, told
        assert len({tile.end - tile.begin for tile in tiles}) == 1, told  # so they can be one batch
        for tile in tiles:
            assert 0 <= tile.begin <= tile.keep_begin < tile.keep_end <= tile.end <= length, told
            assert tile.end - tile.begin <= max(longest, length if len(tiles) == 1 else 0), told
            assert tile.begin % STEP == tile.keep_begin % STEP == 0, told
        for before, after in pairwise(tiles):
            assert before.keep_end == after.keep_begin, told
            assert before.end - after.begin >= overlap - STEP, told


@pytest.mark.parametrize("defect", [0.5, 0.0, -3.0, float("nan"), 481.0])
def test_defect_below_a_pixel_or_larger_than_the_frame_is_rejected(defect: float) -> None:
    with pytest.raises(InvalidRequest, match="must be 1 px to 480 px") as refusal:
        scale_for_defect(defect, (480, 640))
    assert refusal.value.field == "patchcore.smallest_defect"


def test_smaller_defects_need_a_larger_scale() -> None:
    assert scale_for_defect(6, (2048, 2448)).factor == pytest.approx(1 / 3)
    assert scale_for_defect(3, (2048, 2448)).factor == pytest.approx(2 / 3)


def test_scale_of_a_side_follows_the_median_frame() -> None:
    assert scale_for_side(320, [(640, 900), (320, 300), (700, 640)]).factor == 0.5


def test_largest_input_is_below_the_limit() -> None:
    rows, columns = Scale(1.0).input_size((4096, 4096))
    assert rows * columns == MAX_PIXELS
