# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.regions import make_region

from blemish_core.evaluation.region_metrics import RegionAgreement

FRAME = (100, 200)


def mask(left: int, top: int, width: int, height: int) -> NDArray[np.bool_]:
    truth = np.zeros(FRAME, bool)
    truth[top : top + height, left : left + width] = True
    return truth


def test_figures_are_medians_over_images_and_the_share_of_peaks() -> None:
    agreement = RegionAgreement()
    agreement.add("crack", [make_region(10, 20, 20, 10)], mask(10, 20, 20, 10))
    agreement.add("crack", [make_region(10, 20, 20, 20)], mask(10, 20, 20, 10))
    agreement.add("hole", [make_region(100, 50, 10, 10)], mask(0, 0, 10, 10))
    found = agreement.metrics()
    assert found["region_area_ratio"].value == 1.0
    assert found["region_iou"].value == 0.5
    assert found["peak_on_defect_rate"].value == pytest.approx(2 / 3)
    interval = found["region_iou"].interval
    assert interval is not None
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert agreement.metrics(["crack"])["region_iou"].value == 0.75
    assert agreement.metrics(["hole"])["peak_on_defect_rate"].value == 0.0
    assert agreement.metrics(["hole"])["region_iou"].interval is None


def test_regions_of_one_image_count_together_and_the_first_has_the_peak() -> None:
    agreement = RegionAgreement()
    regions = [make_region(40, 20, 10, 10), make_region(60, 20, 10, 10)]
    agreement.add("crack", regions, mask(40, 20, 10, 10) | mask(60, 20, 10, 10))
    found = agreement.metrics()
    assert (found["region_iou"].value, found["peak_on_defect_rate"].value) == (1.0, 1.0)


@pytest.mark.parametrize("seed", range(10))
def test_figures_of_a_small_defect_do_not_depend_on_its_place(seed: int) -> None:
    random = np.random.default_rng(seed)
    left, top = int(random.integers(0, 4088)), int(random.integers(0, 1016))
    truth = np.zeros((1024, 4096), bool)
    truth[top : top + 8, left : left + 8] = True
    agreement = RegionAgreement()
    agreement.add("crack", [make_region(left, top, 8, 4)], truth)
    found = agreement.metrics()
    assert found["region_area_ratio"].value == found["region_iou"].value == 0.5
    assert found["peak_on_defect_rate"].value == 1.0


def test_images_without_regions_or_mask_have_no_figures() -> None:
    agreement = RegionAgreement()
    agreement.add("crack", [], mask(10, 20, 20, 10))
    agreement.add("crack", [make_region()], mask(0, 0, 0, 0))
    assert agreement.metrics() == {}
