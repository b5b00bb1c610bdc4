# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_curve

from blemish_core.evaluation.image_metrics import image_metrics
from blemish_core.evaluation.metrics import image_auroc
from blemish_core.evaluation.resampling import rate


def scores(seed: int, good: int, defective: int, apart: float = 1.5) -> tuple[list[float], list[float]]:
    random = np.random.default_rng(seed)
    # Rounding makes some scores equal.
    return (
        random.normal(0, 1, good).round(1).tolist(),
        random.normal(apart, 1, defective).round(1).tolist(),
    )


@pytest.mark.parametrize("seed", range(5))
def test_metrics_equal_those_of_scikit_learn(seed: int) -> None:
    good, defective = scores(seed, 30, 40)
    pooled, labels = np.array(good + defective), np.array([0] * 30 + [1] * 40)
    found = image_metrics(good, defective, 0.7)
    assert found["image_auroc"].value == image_auroc(good, defective)
    assert found["f1"].value == pytest.approx(f1_score(labels, pooled > 0.7))
    assert found["best_f1"].value == pytest.approx(
        max(f1_score(labels, pooled >= threshold) for threshold in pooled)
    )
    false, true, _ = roc_curve(labels, pooled, drop_intermediate=False)
    assert found["fpr_at_95_tpr"].value == pytest.approx(false[true >= 0.95].min())
    assert found["false_reject_rate"].value == pytest.approx(np.mean(np.array(good) > 0.7))
    assert found["detection_rate"].value == pytest.approx(np.mean(np.array(defective) > 0.7))
    for each in found.values():
        assert each.value is not None
        assert each.interval is not None
        assert each.interval.low <= each.value <= each.interval.high


def test_intervals_cover_the_true_value_at_their_confidence() -> None:
    # AUROC of two normal distributions 1.5 apart: P(N(1.5, 2) > 0) = 0.8556.
    seeds = range(100)
    covered = 0
    for seed in seeds:
        random = np.random.default_rng(seed)
        interval = image_metrics(
            random.normal(0, 1, 60).tolist(), random.normal(1.5, 1, 60).tolist(), 0.75
        )["image_auroc"].interval
        assert interval is not None
        covered += interval.low <= 0.8556 <= interval.high
    # 95 of 100 minus four binomial deviations: bootstrap intervals of small samples are slightly short.
    assert covered >= 86


def test_draws_in_several_batches_are_reproducible() -> None:
    good, defective = scores(1, 3000, 3000)  # too many for one batch
    assert image_metrics(good, defective, 0.7) == image_metrics(good, defective, 0.7)


def test_only_rates_are_given_without_both_kinds_of_images() -> None:
    of_good = image_metrics([1.0, 2.0], [], 1.5)
    assert of_good["false_reject_rate"].value == 0.5
    assert of_good["detection_rate"].value is None
    assert set(of_good) == {"false_reject_rate", "detection_rate"}
    assert image_metrics([], [1.0], 0.5)["detection_rate"].value == 1.0


def test_single_image_gives_metrics_without_intervals() -> None:
    found = image_metrics([1.0, 2.0], [3.0], 2.5)
    assert found["image_auroc"].value == 1.0
    assert found["image_auroc"].interval is None
    assert found["f1"].value == 1.0


def test_no_reject_of_six_has_an_interval_above_zero() -> None:
    none, all_ = rate(0, 6).interval, rate(6, 6).interval
    assert none is not None
    assert all_ is not None
    assert (none.low, none.high) == pytest.approx((0, 0.4593), abs=1e-4)
    assert (all_.low, all_.high) == pytest.approx((0.5407, 1), abs=1e-4)
    assert rate(0, 0).value is None
