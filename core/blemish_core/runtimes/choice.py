# SPDX-License-Identifier: Apache-2.0
"""The choice of the runtime that serves a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from blemish_core.platform.errors import FailedPrecondition
from blemish_core.runtimes.card import RuntimeCard

Asked = Literal["auto", "torch", "openvino", "openvino-int8"]
AUTO, TORCH, OPENVINO, INT8 = "auto", "torch", "openvino", "openvino-int8"


@dataclass(frozen=True)
class RuntimeChoice:
    """The settings of runtimes."""

    name: Asked = "auto"
    threads: int = 0
    """Threads of one forward pass of OpenVINO; 0 divides the cores among the lanes."""
    lanes: int = 1
    """Number of concurrent forward passes of OpenVINO."""

    def among(self, cards: Mapping[str, RuntimeCard], device: str, model: str) -> str:
        """Return the name of the configured runtime, or of the fastest published one for "auto".

        Raises:
            FailedPrecondition: if the bundle lacks the configured runtime.
        """
        published = {name for name, card in cards.items() if card.file is not None}
        if self.name == AUTO:
            return OPENVINO if device == "cpu" and OPENVINO in published else TORCH
        if self.name == TORCH or self.name in published:
            return str(self.name)
        card = cards.get(self.name)
        raise FailedPrecondition(
            f"BLEMISH_RUNTIME is {self.name}, but {model} was published without it"
            f"{f' ({card.refusal})' if card else ''}; {_remedy(self.name, card)}, or set "
            "BLEMISH_RUNTIME=auto"
        )


def _remedy(name: str, card: RuntimeCard | None) -> str:
    if card is not None:
        return "train it again and resolve that"
    if name == INT8:
        return "train it again with int8"
    return "train it again with this version of blemish"
