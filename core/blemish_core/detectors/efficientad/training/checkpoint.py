# SPDX-License-Identifier: Apache-2.0
"""What an attempt at a training leaves for the next one: tensors and numbers, nothing that can execute."""

from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from blemish_core.platform.files import staged_file

_FILE = "state.safetensors"


@dataclass(frozen=True)
class Reached:
    """How far a training is."""

    begun: bool = False
    """Whether the weights are past their beginning."""
    step: int = 0
    spent_s: float = 0.0
    best: float = inf
    """Lowest loss on images not learned."""
    stale: int = 0
    """Checks since then."""


class Checkpoint:
    """A folder with the latest state of a training; without one nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, model: nn.Module, optimizer: torch.optim.Adam) -> Reached:
        """Bring model and optimizer to where they were; what is not there or damaged counts as nothing."""
        if self._folder is None or not (self._folder / _FILE).exists():
            return Reached()
        try:
            with safe_open(self._folder / _FILE, framework="pt") as file:
                told = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            reached = Reached(
                told["begun"] == "True",
                int(told["step"]),
                float(told["spent_s"]),
                float(told["best"]),
                int(told["stale"]),
            )
            model.load_state_dict(_below("model", tensors))
        except (SafetensorError, KeyError, ValueError, RuntimeError):
            return Reached()
        state = {}
        for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
            of_parameter = _below(f"optimizer.{number}", tensors)
            if of_parameter:
                # Adam counts its steps on the CPU.
                state[parameter] = {
                    name: value if name == "step" else value.to(parameter.device)
                    for name, value in of_parameter.items()
                }
        optimizer.state.update(state)
        return reached

    def save(self, model: nn.Module, optimizer: torch.optim.Adam, reached: Reached) -> None:
        """Replace the state by this one: a kill leaves the old one or the new."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
        for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
            for name, value in optimizer.state[parameter].items():
                tensors[f"optimizer.{number}.{name}"] = value
        with staged_file(self._folder / _FILE) as staged:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
                staged,
                metadata={name: str(value) for name, value in asdict(reached).items()},
            )


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}.")
    }
