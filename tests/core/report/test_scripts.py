# SPDX-License-Identifier: Apache-2.0
import warnings

import pytest

from blemish_core.report.charts import scores
from blemish_core.report.scripts import DrawableName, drawable

NAMES = ("Sprünge", "царапина", "划痕", "खरोंच", "\U0001fbff")


@pytest.mark.parametrize("name", NAMES)
def test_chart_of_class_in_any_script_is_drawn_without_missing_characters(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scores({"good": [1.0, 2.0], name: [3.0, 4.0]}, 2.5, None).startswith(b"\x89PNG")


def test_characters_of_no_font_become_code_points() -> None:
    assert drawable("Sprünge") == DrawableName("Sprünge", ("DejaVu Sans",))
    assert drawable("\U000f1234 1").text == "U+F1234 1"
    assert drawable("裂纹").text != drawable("划痕").text
