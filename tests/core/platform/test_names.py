# SPDX-License-Identifier: Apache-2.0

from uuid import uuid4

import pytest

from blemish_core.platform import names
from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.names import ModelRef


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("models/tile", ModelRef("tile")),
        ("models/tile@production", ModelRef("tile", alias="production")),
        ("models/tile-patchcore/versions/12", ModelRef("tile-patchcore", 12)),
        ("models/tile/versions/latest", ModelRef("tile", alias="latest")),
    ],
)
def test_model_reference_round_trips(text: str, ref: ModelRef) -> None:
    assert ModelRef.parse(text) == ref
    assert str(ref) == text


def test_latest_version_has_two_spellings() -> None:
    assert ModelRef.parse("models/tile@latest") == ModelRef.parse("models/tile/versions/latest")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tile",
        "models/x/versions/newest",
        "models/x@latest/versions/1",
        "models/",
        "models/../x",
        "models/a/b",
        "models/x/versions/0",
        "models/x/versions/-1",
        "models/x@staging",
        "models/x\n",
        "models/X",
        "models/" + "a" * 64,
    ],
)
def test_invalid_model_reference_is_rejected(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a model") as refusal:
        ModelRef.parse(text, "embed.model")
    assert refusal.value.field == "embed.model"


@pytest.mark.parametrize("text", ["datasets/../etc", "datasets/", "tile", "datasets/a/b", "datasets/.x"])
def test_dataset_name_cannot_leave_its_folder(text: str) -> None:
    with pytest.raises(InvalidRequest):
        names.dataset_id(text)


def test_item_names_are_uuids() -> None:
    item = uuid4()
    assert names.item_id(names.item_name(item)) == item
    for text in ("items/", "items/1", str(item), f"jobs/{item}"):
        with pytest.raises(InvalidRequest):
            names.item_id(text)
