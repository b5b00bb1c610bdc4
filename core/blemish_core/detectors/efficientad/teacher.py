# SPDX-License-Identifier: Apache-2.0
"""EfficientAD's teachers: imported official ones, or the one distilled by blemish.

The distilled teacher of size small is part of the package, with a card that describes it.
``blemish weights fetch efficientad`` downloads the official ones, which anomalib publishes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors.common import weight_import
from blemish_core.detectors.efficientad.settings import CHANNELS
from blemish_core.detectors.efficientad.teacher_files import not_installed, shipped, weights_name
from blemish_core.platform.errors import Corrupt

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels
_POOLED = 2  # the first two convolutions are followed by a pooling, in either size


@dataclass(frozen=True)
class Teacher:
    """The weights of a patch description network and their origin."""

    weights: Mapping[str, Tensor]
    origin: str
    """"imported" or "distilled by blemish"."""


def network(size: str) -> nn.Module:
    """Return a patch description network with random weights."""
    # Imported on demand: it takes seconds, and most callers need no network.
    from blemish_core.detectors.common import anomalib_models

    networks = {
        "small": anomalib_models.SmallPatchDescriptionNetwork,
        "medium": anomalib_models.MediumPatchDescriptionNetwork,
    }
    made: nn.Module = networks[size](CHANNELS)
    return made


def features(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Return the features (B, C, R, R) of images (B, 3, S, S) by a patch description network.

    Equal to the output of ``network`` with the same weights, without importing anomalib.
    """
    return upper_layers(weights, lower_layers(weights, images))


def lower_layers(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """Return the output (B, C, H, W) of the layers up to the second pooling for images (B, 3, S, S)."""
    mean, std = (torch.tensor(each, device=images.device).view(3, 1, 1) for each in (_MEAN, _STD))
    field = (images - mean) / std
    for number in range(1, _POOLED + 1):
        field = functional.relu(_convolved(weights, number, field))
        field = functional.avg_pool2d(field, 2)
    return field


def upper_layers(weights: Mapping[str, Tensor], field: Tensor) -> Tensor:
    """Return the output (B, C, R, R) of the layers after the second pooling for their input."""
    return _convolved(weights, _layers(weights), last_input(weights, field))


def last_input(weights: Mapping[str, Tensor], field: Tensor) -> Tensor:
    """Return the input (B, C, H, W) of the last layer for that of the upper layers."""
    for number in range(_POOLED + 1, _layers(weights)):
        field = functional.relu(_convolved(weights, number, field))
    return field


def upper_names(weights: Iterable[str]) -> list[str]:
    """Return the names of the weights that ``upper_layers`` uses."""
    lower = tuple(f"conv{number}." for number in range(1, _POOLED + 1))
    return [name for name in weights if not name.startswith(lower)]


def _layers(weights: Mapping[str, Tensor]) -> int:
    return sum(name.endswith(".weight") for name in weights)


def _convolved(weights: Mapping[str, Tensor], number: int, field: Tensor) -> Tensor:
    return functional.conv2d(field, weights[f"conv{number}.weight"], weights[f"conv{number}.bias"])


def find(size: str, weights: Path) -> Teacher:
    """Return the teacher for ``size``; ``weights`` is the folder of imported weights.

    Raises:
        FailedPrecondition: if there is none; the message names the commands that install one.
        Corrupt: if the imported file cannot be read.
    """
    name = weights_name(size)
    imported = weights / f"{name}.safetensors"
    if imported.exists():
        try:
            return Teacher(load_file(imported), "imported")
        except SafetensorError as error:
            raise Corrupt(f"{imported} cannot be read; import it again") from error
    if shipped(size).exists():
        half = load_file(shipped(size))
        return Teacher({key: value.float() for key, value in half.items()}, "distilled by blemish")
    raise not_installed(size)


def import_weights(size: str, file: Path, weights: Path) -> Path:
    """Validate that ``file`` (.safetensors or a torch state dict) is a teacher of ``size`` and keep it.

    Raises:
        InvalidRequest: if the file cannot be read or does not fit.
    """
    expected = network(size).state_dict()
    return weight_import.keep(
        file, weights_name(size), f"EfficientAD's teacher of size {size}", expected, weights
    )
