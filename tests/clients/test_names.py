# SPDX-License-Identifier: Apache-2.0
import pytest

from blemish_client.names import dataset_name, item_name, job_name, model_name, short


@pytest.mark.parametrize("name", ["tile", "datasets/tile"])
def test_dataset_names(name: str) -> None:
    assert dataset_name(name) == "datasets/tile"


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("tile-patchcore", "models/tile-patchcore"),
        ("tile-patchcore@production", "models/tile-patchcore@production"),
        ("tile-patchcore/3", "models/tile-patchcore/versions/3"),
        ("tile-patchcore/versions/3", "models/tile-patchcore/versions/3"),
        ("models/tile-patchcore", "models/tile-patchcore"),
        ("models/tile-patchcore/3", "models/tile-patchcore/versions/3"),
        ("models/tile-patchcore/versions/3", "models/tile-patchcore/versions/3"),
        ("tile-patchcore/latest", "models/tile-patchcore/versions/latest"),
        ("tile-patchcore@latest", "models/tile-patchcore@latest"),
        ("m@production/3", "models/m@production/3"),
    ],
)
def test_model_names(name: str, whole: str) -> None:
    assert model_name(name) == whole
    assert model_name(model_name(name)) == model_name(name)


def test_job_and_item_names() -> None:
    assert job_name("abc") == job_name("jobs/abc") == "jobs/abc"
    assert item_name("0-1") == item_name("items/0-1") == "items/0-1"


@pytest.mark.parametrize(
    ("name", "shorter"),
    [("models/m/versions/3", "m/3"), ("datasets/tile", "tile"), ("jobs/j", "j"), ("m/3", "m/3")],
)
def test_short_names(name: str, shorter: str) -> None:
    assert short(name) == shorter
