# SPDX-License-Identifier: Apache-2.0
"""Which runtime serves a model: the one asked for, or the fastest that its bundle and the device have."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from blemish_core.platform.errors import FailedPrecondition
from blemish_core.runtimes.card import RuntimeCard

Asked = Literal["auto", "torch", "openvino", "openvino-int8"]
AUTO, TORCH, OPENVINO, INT8 = "auto", "torch", "openvino", "openvino-int8"


@dataclass(frozen=True)
class RuntimeChoice:
    """What settings say of runtimes."""

    name: Asked = "auto"
    threads: int = 0
    """Of one forward pass of OpenVINO; 0 takes one a core, shared out among the lanes."""
    lanes: int = 1
    """Forward passes of OpenVINO that are to run at once."""

    def among(self, cards: Mapping[str, RuntimeCard], device: str, model: str) -> str:
        """Return the name of the runtime that serves.

        Raises:
            FailedPrecondition: if the bundle has not the one asked for.
        """
        published = {name for name, card in cards.items() if card.file is not None}
        if self.name == AUTO:
            return OPENVINO if device == "cpu" and OPENVINO in published else TORCH
        if self.name == TORCH or self.name in published:
            return str(self.name)
        card = cards.get(self.name)
        raise FailedPrecondition(
            f"BLEMISH_RUNTIME is {self.name}, but {model} was published without it"
            f"{f' ({card.refusal})' if card else ''}; {_cure(self.name, card)}, or set BLEMISH_RUNTIME=auto"
        )


def _cure(name: str, card: RuntimeCard | None) -> str:
    if card is not None:
        return "train it again with what it lacks"
    if name == INT8:
        return "train it again with int8, which EfficientAD alone has"
    return "train it again with this version of blemish"
