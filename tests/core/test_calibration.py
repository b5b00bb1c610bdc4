# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from scipy.stats import binom

from blemish_core.calibration import Calibration, checked_false_reject_rate, images_needed
from blemish_core.errors import InvalidRequest


def test_nineteen_images_warrant_five_percent() -> None:
    assert images_needed(0.05) == 19
    assert images_needed(0.01) == 99
    scores = [float(score) for score in range(19)]
    calibration = Calibration.of(scores, scores, 0.05)
    assert calibration.warranted_false_reject_rate == 0.05
    assert calibration.threshold == 18


def test_the_threshold_leaves_room_above_when_images_abound() -> None:
    scores = [float(score) for score in range(99)]
    calibration = Calibration.of(scores, scores, 0.05)
    assert calibration.threshold == 94  # 4 of 99 above, 5 of 100 with the next
    assert sum(calibration.anomalous(score) for score in scores) == 4


def test_few_images_warrant_less_and_say_so() -> None:
    calibration = Calibration.of([3.0, 1.0, 2.0, 4.0], [1, 1, 1, 1], 0.05)
    assert calibration.warranted_false_reject_rate == 0.2
    assert calibration.threshold == 4.0


def test_p_values() -> None:
    calibration = Calibration.of([1.0, 2.0, 3.0, 4.0], [0.0] * 4, 0.2)
    assert calibration.p_value(0.0) == 1.0
    assert calibration.p_value(2.5) == pytest.approx(3 / 5)
    assert calibration.p_value(4.0) == pytest.approx(2 / 5)
    assert calibration.p_value(9.0) == pytest.approx(1 / 5)


def test_anomalous_means_a_p_value_at_or_below_the_warranted_rate() -> None:
    random = np.random.default_rng(5)
    calibration = Calibration.of(random.normal(size=60).tolist(), [0.0] * 60, 0.05)
    for score in random.normal(size=300, scale=2).tolist():
        assert calibration.anomalous(score) == (
            calibration.p_value(score) <= calibration.warranted_false_reject_rate
        )


def test_good_images_are_rejected_no_more_often_than_promised() -> None:
    """Over 2,000 seeds the false rejects stay within the binomial bound of the target."""
    trials, target = 2000, 0.05
    rejected = 0
    for seed in range(trials):
        scores = np.random.default_rng(seed).lognormal(size=20).tolist()
        rejected += Calibration.of(scores[:19], scores[:19], target).anomalous(scores[19])
    assert binom.ppf(0.0005, trials, target) <= rejected <= binom.ppf(0.9995, trials, target)


@pytest.mark.parametrize("rate", [0, -0.1, 0.51, float("nan")])
def test_a_senseless_target_is_refused(rate: float) -> None:
    with pytest.raises(InvalidRequest, match="above 0 and at most"):
        checked_false_reject_rate(rate)
