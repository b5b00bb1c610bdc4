# SPDX-License-Identifier: Apache-2.0
"""EfficientAD's teachers: the official ones where they were brought, else the one that blemish distilled.

``small`` comes with blemish (``distillation`` made it, its card lies beside it). ``blemish weights fetch
efficientad`` brings the official ones of the paper's second implementation, as anomalib publishes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors.common import weight_import
from blemish_core.platform.errors import Corrupt, FailedPrecondition

CHANNELS = 384
SIZES = ("small", "medium")
SHIPPED = Path(__file__).parent / "teachers"

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels
_HALVED = 2  # convolutions after which the field is halved: the first two of either size


@dataclass(frozen=True)
class Teacher:
    """Weights of a patch description network, and where they come from."""

    weights: Mapping[str, Tensor]
    origin: str
    """"brought" or "distilled by blemish"."""


def network(size: str) -> nn.Module:
    """A patch description network of a size, its weights random."""
    # Only now: it takes seconds, and most who ask for sizes or weights want no network.
    from blemish_core.detectors.common import anomalib_models

    networks = {
        "small": anomalib_models.SmallPatchDescriptionNetwork,
        "medium": anomalib_models.MediumPatchDescriptionNetwork,
    }
    made: nn.Module = networks[size](CHANNELS)
    return made


def answers(weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
    """What a patch description network of ``weights`` answers to images (B, 3, S, S): (B, C, R, R).

    The same as ``network`` of either size would, which takes seconds to be made for the first time.
    """
    mean, std = (torch.tensor(each, device=images.device).view(3, 1, 1) for each in (_MEAN, _STD))
    field = (images - mean) / std
    count = sum(name.endswith(".weight") for name in weights)
    for number in range(1, count + 1):
        field = functional.conv2d(field, weights[f"conv{number}.weight"], weights[f"conv{number}.bias"])
        if number < count:
            field = functional.relu(field)
        if number <= _HALVED:
            field = functional.avg_pool2d(field, 2)
    return field


def weights_name(size: str) -> str:
    """What the weights are called in the store, as for `blemish weights import`."""
    return f"efficientad-{size}"


def find(size: str, weights: Path) -> Teacher:
    """Return the teacher for ``size``; ``weights`` is the store's folder of what was brought.

    Raises:
        FailedPrecondition: if there is none; the message names the commands that bring one.
        Corrupt: if what was brought cannot be read.
    """
    name = weights_name(size)
    kept = weights / f"{name}.safetensors"
    if kept.exists():
        try:
            return Teacher(load_file(kept), "brought")
        except SafetensorError as error:
            raise Corrupt(f"{kept} cannot be read; import it again") from error
    shipped = SHIPPED / f"pdn_{size}.safetensors"
    if shipped.exists():
        half = load_file(shipped)
        return Teacher({key: value.float() for key, value in half.items()}, "distilled by blemish")
    raise FailedPrecondition(
        f"no teacher for EfficientAD {size}: fetch the official one with `blemish weights fetch "
        f"efficientad`, bring one with `blemish weights import {name} FILE`, or train the size small, "
        "whose teacher comes with blemish"
    )


def import_weights(size: str, file: Path, weights: Path) -> Path:
    """Check that ``file`` (.safetensors, or a state dict of torch) is a teacher of ``size`` and keep it.

    Raises:
        InvalidRequest: if it is not such a file, or does not fit.
    """
    wanted = network(size).state_dict()
    return weight_import.keep(
        file, weights_name(size), f"EfficientAD's teacher of size {size}", wanted, weights
    )
