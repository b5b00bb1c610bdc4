# SPDX-License-Identifier: Apache-2.0

import pytest

from blemish_core.platform.errors import FailedPrecondition
from blemish_core.runtimes.card import RuntimeCard
from blemish_core.runtimes.choice import Asked, RuntimeChoice

FLOAT = {"openvino": RuntimeCard(file="openvino/model.xml")}
BOTH = FLOAT | {"openvino-int8": RuntimeCard(file="openvino/int8.xml")}
REFUSED = FLOAT | {"openvino-int8": RuntimeCard(file=None, refusal="it loses too much")}


@pytest.mark.parametrize(
    ("asked", "device", "cards", "serves"),
    [
        ("auto", "cpu", BOTH, "openvino"),
        ("auto", "cpu", {}, "torch"),
        ("auto", "cuda", BOTH, "torch"),
        ("torch", "cpu", BOTH, "torch"),
        ("openvino", "cuda", BOTH, "openvino"),
        ("openvino-int8", "cpu", BOTH, "openvino-int8"),
    ],
)
def test_configured_or_fastest_runtime_is_chosen(
    asked: Asked, device: str, cards: dict[str, RuntimeCard], serves: str
) -> None:
    assert RuntimeChoice(asked).among(cards, device, "models/tile/versions/1") == serves


@pytest.mark.parametrize(
    ("asked", "cards", "cure"),
    [
        ("openvino", {}, r"train it again with this version of blemish, or set BLEMISH_RUNTIME=auto"),
        ("openvino-int8", FLOAT, r"train it again with int8.*or set BLEMISH_RUNTIME=auto"),
        ("openvino-int8", REFUSED, r"\(it loses too much\).*or set BLEMISH_RUNTIME=auto"),
    ],
)
def test_missing_runtime_is_rejected_with_a_remedy(
    asked: Asked, cards: dict[str, RuntimeCard], cure: str
) -> None:
    with pytest.raises(
        FailedPrecondition, match=rf"models/tile/versions/1 was published without it.*{cure}"
    ):
        RuntimeChoice(asked).among(cards, "cpu", "models/tile/versions/1")
