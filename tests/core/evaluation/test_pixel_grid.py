# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from blemish_core.evaluation.pixel_grid import (
    MAX_CELLS,
    compared,
    comparison_shape,
    scaled_map,
    scaled_mask,
)


def test_frames_up_to_the_limit_keep_their_pixels() -> None:
    for frame in ((1, 1), (48, 64), (256, 4096), (1024, 1024)):
        assert comparison_shape(frame) == frame


@pytest.mark.parametrize("frame", [(2048, 2448), (1025, 1024), (5000, 10_000), (400, 16_384)], ids=str)
def test_larger_frames_shrink_to_the_limit_and_keep_their_aspect(frame: tuple[int, int]) -> None:
    rows, columns = comparison_shape(frame)
    assert 0.98 * MAX_CELLS < rows * columns <= MAX_CELLS
    assert columns / rows == pytest.approx(frame[1] / frame[0], rel=0.01)


def test_map_is_scaled_over_the_whole_frame() -> None:
    halves = np.repeat(np.array([[1.0, 3.0]], np.float32), 4, axis=0)
    scaled = scaled_map(halves, (12, 40))
    assert scaled.shape == (12, 40)
    assert scaled.dtype == np.float32
    assert (scaled[:, :10] == 1).all()
    assert (scaled[:, 30:] == 3).all()
    assert (np.diff(scaled, axis=1) >= 0).all()


def test_shrinking_a_map_averages_its_pixels() -> None:
    checks = np.indices((64, 64)).sum(axis=0).astype(np.float32) % 2
    assert scaled_map(checks, (8, 16))[1:-1, 1:-1] == pytest.approx(np.full((6, 14), 0.5), abs=0.1)


@pytest.mark.parametrize("shape", [(7, 13), (20, 50), (99, 3)], ids=str)
def test_no_defect_vanishes_from_a_shrunk_mask(shape: tuple[int, int]) -> None:
    for row in range(0, 100, 7):
        for column in range(0, 160, 9):
            mask = np.zeros((100, 160), np.bool_)
            mask[row, column] = True
            small = scaled_mask(mask, shape)
            assert small.shape == shape
            assert 1 <= small.sum() <= 4


@pytest.mark.parametrize("seed", range(40))
def test_every_pixel_of_every_defect_counts_wherever_it_lies(seed: int) -> None:
    random = np.random.default_rng(seed)
    frame = (int(random.integers(900, 2500)), int(random.integers(900, 2500)))
    mask = np.zeros(frame, np.bool_)
    regions, taken = 0, np.zeros(frame, np.bool_)
    for _ in range(12):
        height, width = (int(side) for side in random.integers(1, 9, size=2))
        top, left = (int(random.integers(0, side - 9)) for side in frame)
        around = (slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1))
        if not taken[around].any():
            mask[top : top + height, left : left + width] = taken[around] = True
            regions += 1
    found = compared(random.random((37, 53), dtype=np.float32), mask)
    assert len(found.defect) == mask.sum()
    assert found.overlap.sum() == pytest.approx(regions)
    assert found.outside_pixels.sum() == mask.size - mask.sum()
    assert found.outside.shape == found.outside_pixels.shape == comparison_shape(frame)


def test_defect_gets_the_scores_of_its_own_pixels() -> None:
    frame = (3000, 2000)
    rising = np.tile(np.linspace(0, 1, 200, dtype=np.float32), (10, 1))
    for left in (0, 777, 1992):
        mask = np.zeros(frame, np.bool_)
        mask[1234:1242, left : left + 8] = True
        expected = scaled_map(rising, frame)[mask]
        assert compared(rising, mask).defect == pytest.approx(expected, abs=1e-6)


def test_ignored_pixels_are_part_of_no_cell_and_no_region() -> None:
    frame = (1500, 1400)
    mask, looks = np.zeros(frame, np.bool_), np.ones(frame, np.bool_)
    mask[100:110, 100:120] = True
    looks[:, 110:] = False
    found = compared(np.zeros((8, 8), np.float32), mask, looks)
    assert found.outside_pixels.sum() == looks.sum() - 100
    assert found.overlap == pytest.approx(np.full(100, 1 / 100))
