# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: tensors and numbers only, so that loading executes no code."""

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
class TrainingState:
    """The progress of a training. Checkpoint files store the field names."""

    begun: bool = False
    """True once the student has its initial weights."""
    step: int = 0
    spent_s: float = 0.0
    best: float = inf
    """Lowest loss on images that are not trained on."""
    stale: int = 0
    """Number of checks since then."""


class Checkpoint:
    """A folder with the latest state of a training; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self, model: nn.Module, optimizer: torch.optim.Adam) -> TrainingState:
        """Restore model and optimizer; a missing or damaged checkpoint leaves them unchanged."""
        if self._folder is None or not (self._folder / _FILE).exists():
            return TrainingState()
        try:
            with safe_open(self._folder / _FILE, framework="pt") as file:
                fields = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = TrainingState(
                fields["begun"] == "True",
                int(fields["step"]),
                float(fields["spent_s"]),
                float(fields["best"]),
                int(fields["stale"]),
            )
            model.load_state_dict(_with_prefix("model", tensors))
        except (SafetensorError, KeyError, ValueError, RuntimeError):
            return TrainingState()
        moments = {}
        for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
            of_parameter = _with_prefix(f"optimizer.{number}", tensors)
            if of_parameter:
                # Adam keeps its step count on the CPU.
                moments[parameter] = {
                    name: value if name == "step" else value.to(parameter.device)
                    for name, value in of_parameter.items()
                }
        optimizer.state.update(moments)
        return state

    def save(self, model: nn.Module, optimizer: torch.optim.Adam, state: TrainingState) -> None:
        """Replace the checkpoint atomically."""
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
                metadata={name: str(value) for name, value in asdict(state).items()},
            )


def _with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}.")
    }
