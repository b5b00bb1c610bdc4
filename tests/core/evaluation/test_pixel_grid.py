# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from blemish_core.evaluation.pixel_grid import MAX_PIXELS, comparison_shape, scaled_map, scaled_mask


def test_frames_up_to_the_limit_keep_their_pixels() -> None:
    for frame in ((1, 1), (48, 64), (256, 4096), (1024, 1024)):
        assert comparison_shape(frame) == frame


@pytest.mark.parametrize("frame", [(2048, 2448), (1025, 1024), (5000, 10_000), (400, 16_384)], ids=str)
def test_larger_frames_shrink_to_the_limit_and_keep_their_aspect(frame: tuple[int, int]) -> None:
    rows, columns = comparison_shape(frame)
    assert 0.98 * MAX_PIXELS < rows * columns <= MAX_PIXELS
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
