# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from blemish_core.metrics import best_f1_threshold, image_auroc, pixel_figures


def test_image_auroc() -> None:
    assert image_auroc([0.1, 0.2], [0.3, 0.4]) == 1.0
    assert image_auroc([0.1, 0.3], [0.2, 0.4]) == pytest.approx(0.75)


def test_figures_are_absent_where_images_do_not_allow_them() -> None:
    assert image_auroc([], [1.0]) is None
    assert image_auroc([1.0], []) is None
    assert best_f1_threshold([1.0], []) is None
    assert pixel_figures([], []) == (None, None)
    blank = np.zeros((4, 4), np.float32)
    assert pixel_figures([blank], [np.zeros((4, 4), np.bool_)]) == (None, None)
    assert pixel_figures([blank], [np.ones((4, 4), np.bool_)]) == (None, None)


def test_best_f1_threshold_separates() -> None:
    assert best_f1_threshold([0.1, 0.2, 0.3], [0.5, 0.6]) == 0.5


def test_aupro_counts_regions_and_not_pixels() -> None:
    mask = np.zeros((40, 40), np.bool_)
    mask[:20, :20] = True  # 400 pixels, found
    mask[30:32, 30:32] = True  # 4 pixels, missed
    scores = np.zeros((40, 40), np.float32)
    scores[:20, :20] = 1
    pixel_auroc, aupro = pixel_figures([scores], [mask])
    assert pixel_auroc is not None
    assert aupro is not None
    # One region of two is found at no false positive; the other only with all other pixels, on a straight
    # line: the mean overlap goes from 0.5 at rate 0 to 1 at rate 1, and is 0.65 at 0.3.
    assert aupro == pytest.approx((0.5 + 0.65) / 2)
    assert pixel_auroc > 0.99


def test_a_perfect_map_is_perfect() -> None:
    mask = np.zeros((16, 16), np.bool_)
    mask[3:6, 3:9] = True
    pixel_auroc, aupro = pixel_figures([mask.astype(np.float32)], [mask])
    assert pixel_auroc == 1.0
    assert aupro == pytest.approx(1.0)
