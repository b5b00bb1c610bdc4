# SPDX-License-Identifier: Apache-2.0
import pytest

from blemish.v1.model_pb2 import Interval, Metrics
from blemish_console.data import models


def test_figures_are_those_that_the_test_images_allow() -> None:
    metrics = Metrics(
        image_auroc=0.5, false_reject_rate=0.0, intervals={"image_auroc": Interval(low=0.4, high=0.6)}
    )
    assert models.figures(metrics) == [
        models.Figure("image_auroc", 0.5, Interval(low=0.4, high=0.6)),
        models.Figure("false_reject_rate", 0.0, None),
    ]


@pytest.mark.parametrize(
    ("version", "production", "older"),
    [
        ("models/m/versions/9", "models/m/versions/10", True),
        ("models/m/versions/10", "models/m/versions/9", False),
        ("models/m/versions/1", "", False),
    ],
)
def test_older_version_than_the_one_in_production_is_a_way_back(
    version: str, production: str, older: bool
) -> None:
    assert models.is_older(version, production) is older
