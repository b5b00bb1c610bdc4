# SPDX-License-Identifier: Apache-2.0

from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import binom

from blemish_core.calibration import (
    Calibration,
    checked_false_reject_rate,
    checked_threshold,
    images_needed,
)
from blemish_core.localization.settings import RegionSettings
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest


def of(scores: list[float], target: float = 0.05) -> Calibration:
    return Calibration.of(scores, [10 * score for score in scores], target)


def test_nineteen_images_guarantee_five_percent() -> None:
    assert images_needed(0.05) == 19
    assert images_needed(0.01) == 99
    calibration = of([float(score) for score in range(19)])
    assert calibration.warranted_false_reject_rate == 0.05
    assert calibration.threshold == 18


def test_threshold_leaves_scores_above_it_with_many_images() -> None:
    scores = [float(score) for score in range(99)]
    calibration = of(scores)
    assert calibration.threshold == 94  # 4 of 99 above, 5 of 100 with the next
    assert calibration.held_out_above == sum(map(calibration.is_anomalous, scores)) == 4


def test_few_images_guarantee_a_higher_rate_only() -> None:
    calibration = of([3.0, 1.0, 2.0, 4.0])
    assert calibration.warranted_false_reject_rate == 0.2
    assert calibration.threshold == 4.0


def test_p_value_is_the_share_of_scores_at_least_as_high() -> None:
    calibration = of([1.0, 2.0, 3.0, 4.0], 0.2)
    assert calibration.p_value(0.0) == 1.0
    assert calibration.p_value(2.5) == pytest.approx(3 / 5)
    assert calibration.p_value(4.0) == pytest.approx(2 / 5)
    assert calibration.p_value(9.0) == pytest.approx(1 / 5)


@pytest.mark.parametrize("decimals", [0, 1, 9])  # 0 and 1: many images score alike
def test_anomalous_means_p_value_at_most_the_guaranteed_rate(decimals: int) -> None:
    random = np.random.default_rng(5)
    calibration = of(random.normal(size=60).round(decimals).tolist())
    for score in random.normal(size=300, scale=2).round(decimals).tolist():
        assert calibration.is_anomalous(score) == (
            calibration.p_value(score) <= calibration.warranted_false_reject_rate
        )


def test_another_rate_gives_another_threshold_from_the_same_images() -> None:
    trained = of([float(score) for score in range(99)])
    stricter = trained.at_false_reject_rate(0.2)
    assert (stricter.threshold, stricter.pixel_threshold) == (79, 790)
    assert stricter.warranted_false_reject_rate == 0.2
    assert stricter.scores == trained.scores
    assert stricter.at_threshold(3.0).at_false_reject_rate(0.05) == trained


@pytest.mark.parametrize(
    ("threshold", "above", "pixel_threshold"),
    [(500.0, 0, 5000), (98.0, 0, 980), (94.0, 4, 940), (94.5, 4, 945), (0.0, 98, 0), (-1.0, 99, -10)],
)
def test_fixed_threshold_counts_held_out_images_above_it(
    threshold: float, above: int, pixel_threshold: float
) -> None:
    trained = of([float(score) for score in range(99)])
    fixed = trained.at_threshold(threshold)
    assert fixed.threshold == threshold
    assert fixed.held_out_above == above
    assert fixed.warranted_false_reject_rate == pytest.approx((above + 1) / 100)
    assert fixed.pixel_threshold == pixel_threshold
    lower, upper = fixed.false_reject_rate_interval
    assert 0 <= lower <= above / 99 <= upper <= 1
    for score in (*trained.scores, 94.2, 600.0):
        assert fixed.p_value(score) == trained.p_value(score)
        assert fixed.is_anomalous(score) == (score > threshold)
        assert not fixed.is_anomalous(score) or fixed.p_value(score) <= fixed.warranted_false_reject_rate


def test_fixed_threshold_equals_the_conformal_one_of_the_same_value() -> None:
    trained = of(np.random.default_rng(3).lognormal(size=99).astype(np.float32).tolist())
    fixed = trained.at_threshold(trained.threshold)
    assert fixed.threshold == trained.threshold
    assert fixed.pixel_threshold == trained.pixel_threshold
    assert fixed.warranted_false_reject_rate == trained.warranted_false_reject_rate
    assert fixed.false_reject_rate_interval == trained.false_reject_rate_interval


def test_pixel_threshold_moves_with_a_fixed_threshold_beyond_all_held_out_scores() -> None:
    trained = Calibration.of([6.0, 8.0, 9.9], [5.0, 7.0, 11.0], 0.05)
    assert trained.at_threshold(9.9).pixel_threshold == pytest.approx(11.0)
    assert trained.at_threshold(14.0).pixel_threshold == pytest.approx(14.0 * 11.0 / 9.9)
    assert trained.at_threshold(5.0).pixel_threshold == pytest.approx(5.0 - 11.0 / 9.9)
    rising = [trained.at_threshold(each / 10).pixel_threshold for each in range(-50, 200)]
    assert all(low < high for low, high in pairwise(rising))


@pytest.mark.parametrize("scores", [[-0.3, -0.1], [0.0, 0.0], [-0.2, 0.1], [3e38, 3.3e38]])
@pytest.mark.parametrize("threshold", [-3.4e38, -0.2, 0.0, 5.0, 3.4e38])
def test_pixel_threshold_equals_the_threshold_of_scores_that_are_maxima_of_maps(
    scores: list[float], threshold: float
) -> None:
    fixed = Calibration.of(scores, scores, 0.05).at_threshold(threshold)
    rounding = 1e-9 * max(map(abs, scores))
    assert fixed.pixel_threshold == pytest.approx(fixed.threshold, abs=rounding)


def test_pixel_threshold_set_by_a_person_stays() -> None:
    trained = of([1.0, 2.0]).with_regions(RegionSettings(pixel_threshold=7.0))
    assert trained.at_threshold(500.0).pixel_threshold == 7.0


def test_score_equal_to_the_threshold_in_float32_is_normal() -> None:
    score = float(np.float32(24.1))  # a little above the double 24.1
    assert not of([1.0, 2.0]).at_threshold(24.1).is_anomalous(score)


def test_false_reject_rate_interval_is_clopper_pearson() -> None:
    # 1 - 0.05 ** (1 / 19): the rate at which 19 images all lie below once in twenty.
    lower, upper = of([float(score) for score in range(19)]).false_reject_rate_interval
    assert lower == 0.0
    assert upper == pytest.approx(1 - 0.05 ** (1 / 19))
    # Clopper and Pearson's for 4 of 99, by the binomial tails that define it.
    lower, upper = of([float(score) for score in range(99)]).false_reject_rate_interval
    assert binom.sf(3, 99, lower) == pytest.approx(0.05)
    assert binom.cdf(4, 99, upper) == pytest.approx(0.05)
    # With ties nothing is above the threshold, and the interval is wide.
    lower, upper = of([7.0] * 99).false_reject_rate_interval
    assert lower == 0.0
    assert upper > 0.05


@pytest.mark.parametrize("rate", [0, -0.1, 0.51, 0.7, float("nan"), float("inf")])
def test_target_out_of_range_is_rejected(rate: float) -> None:
    with pytest.raises(InvalidRequest, match="above 0 and at most"):
        checked_false_reject_rate(rate)
    with pytest.raises(InvalidRequest, match="above 0 and at most"):
        of([1.0]).at_false_reject_rate(rate)


@pytest.mark.parametrize("threshold", [float("nan"), float("inf"), -float("inf"), 1e39, -1e300])
def test_threshold_that_is_not_finite_is_rejected(threshold: float) -> None:
    with pytest.raises(InvalidRequest, match="finite") as refusal:
        checked_threshold(threshold)
    assert refusal.value.field == "threshold"


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_rejected(broken: float) -> None:
    with pytest.raises(FailedPrecondition, match="not finite"):
        Calibration.of([1.0, broken], [1.0, 1.0], 0.05)
    with pytest.raises(FailedPrecondition, match="not finite"):
        Calibration.of([1.0, 1.0], [broken, 1.0], 0.05)
