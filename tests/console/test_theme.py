# SPDX-License-Identifier: Apache-2.0
import re
from importlib.resources import files

import pytest

from blemish.v1.search_pb2 import LABEL_CONFIRMED, LABEL_FALSE_ALARM, LABEL_NONE, LABEL_UNSPECIFIED
from blemish_console import texts, theme

STYLE = files("blemish_console").joinpath("templates/console.css").read_text()
PAIRS = [
    ("ink", "paper"),
    ("ink", "card"),
    ("faint", "paper"),
    ("faint", "card"),
    ("faint", "quiet-bg"),
    ("accent", "card"),
    ("good", "good-bg"),
    ("bad", "bad-bg"),
    ("warn", "warn-bg"),
    ("head-ink", "head"),
]


def colours(selector: str) -> dict[str, str]:
    block = STYLE.partition(selector)[2].partition("}")[0]
    return dict(re.findall(r"--bl-([\w-]+): (#[0-9a-f]{6})", block))


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("selector", [":root {", "body.body--dark {"])
@pytest.mark.parametrize(("ink", "paper"), PAIRS)
def test_text_has_the_contrast_of_wcag_aa(selector: str, ink: str, paper: str) -> None:
    found = colours(selector)
    light, dark = sorted((luminance(found[ink]), luminance(found[paper])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_verdicts_differ_in_word_shape_and_colour() -> None:
    signs = [theme.NORMAL, theme.ANOMALOUS, theme.NO_VERDICT]
    for part in ("word", "icon", "tone"):
        assert len({getattr(sign, part) for sign in signs}) == 3


def test_label_of_a_person_is_a_word_with_the_class_of_a_defect() -> None:
    assert theme.label_sign(LABEL_CONFIRMED, "crack").word == texts.CONFIRMED_AS.format(name="crack")
    assert theme.label_sign(LABEL_CONFIRMED).word == texts.CONFIRMED
    assert theme.label_sign(LABEL_FALSE_ALARM, "ignored").word == texts.FALSE_ALARM
    assert theme.label_sign(LABEL_NONE) == theme.label_sign(LABEL_UNSPECIFIED) == theme.NO_LABEL
