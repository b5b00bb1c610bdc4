# SPDX-License-Identifier: Apache-2.0

from blemish_core.evaluation.metrics import best_f1_threshold, image_auroc


def test_image_auroc() -> None:
    assert image_auroc([0.1, 0.2], [0.3, 0.4]) == 1.0
    assert image_auroc([0.1, 0.3], [0.2, 0.4]) == 0.75


def test_metrics_are_absent_without_both_kinds_of_images() -> None:
    assert image_auroc([], [1.0]) is None
    assert image_auroc([1.0], []) is None
    assert best_f1_threshold([1.0], []) is None


def test_best_f1_threshold_separates() -> None:
    assert best_f1_threshold([0.1, 0.2, 0.3], [0.5, 0.6]) == 0.5
