# SPDX-License-Identifier: Apache-2.0

import math

import pytest

from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.efficientad.training.plan import TrainingPlan


@pytest.mark.parametrize(
    ("settings", "device", "solved"),
    [
        (EfficientAdSettings(), "cpu", True),
        (EfficientAdSettings(), "cuda", False),
        (EfficientAdSettings(max_steps=5000), "cuda:0", True),
        (EfficientAdSettings(start="random"), "cpu", False),
        (EfficientAdSettings(start="solved"), "cuda", True),
    ],
)
def test_start_is_solved_for_on_request_or_with_few_or_slow_steps(
    settings: EfficientAdSettings, device: str, solved: bool
) -> None:
    assert TrainingPlan.of(settings, device).solved is solved


@pytest.mark.parametrize(
    ("settings", "device", "steps", "seconds"),
    [
        (EfficientAdSettings(), "cpu", 70_000, 300.0),
        (EfficientAdSettings(), "cuda", 70_000, math.inf),
        (EfficientAdSettings(max_steps=70_000), "cpu", 70_000, math.inf),
        (EfficientAdSettings(max_seconds=60.0), "cpu", 70_000, 60.0),
        (EfficientAdSettings(max_steps=10, max_seconds=60.0), "cuda", 10, 60.0),
    ],
)
def test_only_a_training_on_a_cpu_without_limits_gets_five_minutes(
    settings: EfficientAdSettings, device: str, steps: int, seconds: float
) -> None:
    plan = TrainingPlan.of(settings, device)
    assert (plan.steps, plan.seconds) == (steps, seconds)


def test_images_are_limited_by_time_but_never_below_a_few() -> None:
    plan = TrainingPlan.of(EfficientAdSettings(max_seconds=300.0), "cpu")
    assert plan.affordable_images(0.4) == pytest.approx(100)
    assert plan.affordable_images(60.0) == 16
    unlimited = TrainingPlan.of(EfficientAdSettings(max_steps=50), "cpu")
    assert unlimited.affordable_images(60.0) == math.inf
