# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: tensors and numbers only, so that loading executes no code."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from blemish_core.platform.files import staged_file

_FILE = "state.safetensors"
_MODEL, _START, _OPTIMIZER = "model", "start", "optimizer"


@dataclass(frozen=True)
class TrainingState:
    """The progress of a training. Checkpoint files store the field names."""

    images: int
    """Number of images to learn from."""
    step: int = 0
    spent_s: float = 0.0
    start_loss: float = inf
    """Loss of the solved start on images that are not trained on, infinite for a random start."""
    best: float = inf
    """Lowest such loss."""
    stale: int = 0
    """Number of checks since then."""


@dataclass(frozen=True)
class SavedTraining:
    """A training as it was saved."""

    state: TrainingState
    weights: Mapping[str, Tensor]
    start: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights before the first step; empty for a random start."""
    moments: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    """State of Adam for each parameter, by its number."""

    def fits(self, model: nn.Module) -> bool:
        """Return True if the weights are those of a model of this shape."""
        expected = {name: value.shape for name, value in model.state_dict().items()}
        return all(
            {name: value.shape for name, value in weights.items()} == expected
            for weights in (self.weights, self.start or self.weights)
        )

    def restore_moments(self, optimizer: torch.optim.Adam) -> None:
        """Give an optimizer the moments of its parameters."""
        for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
            if number in self.moments:
                # Adam keeps its step count on the CPU.
                optimizer.state[parameter] = {
                    name: value if name == "step" else value.to(parameter.device)
                    for name, value in self.moments[number].items()
                }


class Checkpoint:
    """A folder with the latest state of a training; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def load(self) -> SavedTraining | None:
        """Return the saved training, or None if it is missing or damaged."""
        if self._folder is None or not (self._folder / _FILE).exists():
            return None
        try:
            with safe_open(self._folder / _FILE, framework="pt") as file:
                fields = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = TrainingState(
                int(fields["images"]),
                int(fields["step"]),
                float(fields["spent_s"]),
                float(fields["start_loss"]),
                float(fields["best"]),
                int(fields["stale"]),
            )
        except (SafetensorError, KeyError, ValueError):
            return None
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _with_prefix(_OPTIMIZER, tensors).items():
            number, _, moment = name.partition(".")
            moments.setdefault(int(number), {})[moment] = value
        return SavedTraining(state, _with_prefix(_MODEL, tensors), _with_prefix(_START, tensors), moments)

    def save(
        self,
        state: TrainingState,
        model: nn.Module,
        start: Mapping[str, Tensor],
        optimizer: torch.optim.Adam | None = None,
    ) -> None:
        """Replace the checkpoint atomically."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"{_MODEL}.{name}": value for name, value in model.state_dict().items()}
        tensors |= {f"{_START}.{name}": value for name, value in start.items()}
        parameters = [] if optimizer is None else optimizer.param_groups[0]["params"]
        for number, parameter in enumerate(parameters):
            assert optimizer is not None
            for name, value in optimizer.state[parameter].items():
                tensors[f"{_OPTIMIZER}.{number}.{name}"] = value
        with staged_file(self._folder / _FILE) as staged:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
                staged,
                metadata={name: str(value) for name, value in asdict(state).items()},
            )


def _with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}.")
    }
