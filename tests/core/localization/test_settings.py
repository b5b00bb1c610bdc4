# SPDX-License-Identifier: Apache-2.0

import math

import pytest

from blemish_core.localization.settings import MAX_REGIONS, RegionSettings
from blemish_core.platform.errors import InvalidRequest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pixel_threshold", math.nan),
        ("pixel_threshold", math.inf),
        ("smallest_area", -1.0),
        ("smallest_area", math.nan),
        ("max_regions", 0),
        ("max_regions", MAX_REGIONS + 1),
        ("mm_per_px", 0.0),
        ("mm_per_px", -0.1),
        ("mm_per_px", math.nan),
    ],
)
def test_setting_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=rf"^regions\.{name} is .*; use ") as error:
        RegionSettings.model_validate({name: value}).checked()
    assert error.value.field == f"regions.{name}"


def test_settings_in_range_are_accepted() -> None:
    settings = RegionSettings(pixel_threshold=-3.0, smallest_area=4.5, max_regions=1, mm_per_px=0.02)
    assert settings.checked() is settings
