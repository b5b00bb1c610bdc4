# SPDX-License-Identifier: Apache-2.0
import pytest

from blemish_core.evaluation.metrics import Interval
from blemish_core.report import formats


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("image_auroc", 0.98765, "0.988"),
        ("detection_rate", 0.98765, "98.8 %"),
        ("false_reject_rate", 0.0, "0.0 %"),
        ("aupro", None, "\N{EN DASH}"),
    ],
)
def test_metric_is_a_percentage_or_a_decimal(name: str, value: float | None, text: str) -> None:
    assert formats.metric(value, name) == text


def test_interval_has_the_format_of_its_metric() -> None:
    assert formats.interval(Interval(low=0.5, high=1), "image_auroc") == "0.500 to 1.000"
    assert formats.interval(Interval(low=0.5, high=1), "detection_rate") == "50.0 to 100.0 %"
    assert formats.interval(None, "detection_rate") == ""


def test_one_image_is_singular() -> None:
    assert (formats.images(1), formats.images(2)) == ("1 image", "2 images")
    assert formats.images(2, kind="defective") == "2 defective images"


def test_data_uri_contains_the_bytes() -> None:
    assert formats.data_uri(b"abc", "png") == "data:image/png;base64,YWJj"
