# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest

from blemish_core.detectors.base import ReadImage
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.plan import plan
from blemish_core.platform.errors import InvalidRequest


def frames(*sizes: tuple[int, int]) -> list[ReadImage]:
    def read(size: tuple[int, int]) -> ReadImage:
        return lambda: np.zeros((*size, 3), np.uint8)

    return [read(size) for size in sizes]


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ((256, 256), (320, 320)),
        ((128, 128), (256, 256)),  # small images are not enlarged more than twice
        ((256, 4096), (256, 4096)),  # long ones are not enlarged
        ((460, 565), (320, 400)),
        ((320, 800), (320, 800)),
        ((2048, 2448), (320, 384)),
    ],
)
def test_automatic_scale_follows_the_size_of_the_images(
    frame: tuple[int, int], expected: tuple[int, int]
) -> None:
    planned = plan(PatchCoreSettings(), frames(*[frame] * 3))
    assert planned.input == expected
    assert planned.settings.frame == frame
    assert planned.settings.geometry.input_size(frame) == expected


def test_requested_side_is_the_shorter_one() -> None:
    assert plan(PatchCoreSettings(input_size=512), frames((320, 640))).input == (512, 1024)


def test_smallest_defect_chooses_the_scale() -> None:
    planned = plan(PatchCoreSettings(smallest_defect=6), frames((2048, 2448)))
    assert planned.settings.scale == pytest.approx(1 / 3)
    assert "chosen by a defect of 6 px" in planned.describe(100.0, 40.0)


def test_plan_states_the_cost_of_a_frame_and_of_the_training() -> None:
    planned = plan(PatchCoreSettings(max_entries=2000), frames((320, 320)))
    text = planned.describe(25.2, 40.4)
    assert "1600 patches" in text
    assert "the network takes 25 ms a frame" in text
    assert "at most 2000 entries" in text
    assert text.endswith("the training takes about 40 s, without evaluation and export")
    assert "takes about 7 min" in planned.describe(25.2, 400.0)
    assert "takes about 1 s" in planned.describe(25.2, 0.2)


def test_defect_larger_than_the_images_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match="must be 1 px to 100 px"):
        plan(PatchCoreSettings(smallest_defect=101), frames((100, 200)))


@pytest.mark.parametrize("defect", [0.0, -1.0, 0.5, math.inf, math.nan])
def test_smallest_defect_that_is_no_width_is_rejected(defect: float) -> None:
    with pytest.raises(InvalidRequest, match="must be at least 1 px"):
        PatchCoreSettings(smallest_defect=defect)


@pytest.mark.parametrize(
    "settings", [PatchCoreSettings(smallest_defect=1), PatchCoreSettings(input_size=1024)]
)
def test_images_that_are_too_large_at_the_scale_are_rejected(settings: PatchCoreSettings) -> None:
    with pytest.raises(InvalidRequest, match="give a larger smallest_defect or a smaller input_size"):
        plan(settings, frames((300, 16_000)))


def test_both_ways_to_choose_the_scale_exclude_each_other() -> None:
    with pytest.raises(InvalidRequest, match="leave one of them out"):
        PatchCoreSettings(smallest_defect=6, input_size=512)


def test_frame_is_unknown_if_images_differ_in_size() -> None:
    assert plan(PatchCoreSettings(), frames((256, 256), (300, 256))).settings.frame is None
