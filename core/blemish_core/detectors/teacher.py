# SPDX-License-Identifier: Apache-2.0
"""EfficientAD's teachers: the official ones where they were brought, else the one that blemish distilled.

``small`` comes with blemish (``distillation`` made it, its card lies beside it). ``blemish weights fetch
efficientad`` brings the official ones of the paper's second implementation, as anomalib publishes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from blemish_core.detectors import brought
from blemish_core.errors import Corrupt, NotPossibleYet

CHANNELS = 384
SIZES = ("small", "medium")
SHIPPED = Path(__file__).parent / "teachers"


@dataclass(frozen=True)
class Teacher:
    """Weights of a patch description network, and where they come from."""

    weights: Mapping[str, Tensor]
    origin: str
    """"brought" or "distilled by blemish"."""


def network(size: str) -> nn.Module:
    """A patch description network of a size, its weights random."""
    # Only now: it takes seconds, and most who ask for sizes or weights want no network.
    from blemish_core.detectors import anomalib_models

    networks = {
        "small": anomalib_models.SmallPatchDescriptionNetwork,
        "medium": anomalib_models.MediumPatchDescriptionNetwork,
    }
    made: nn.Module = networks[size](CHANNELS)
    return made


def weights_name(size: str) -> str:
    """What the weights are called in the store, as for `blemish weights import`."""
    return f"efficientad-{size}"


def find(size: str, weights: Path) -> Teacher:
    """Return the teacher for ``size``; ``weights`` is the store's folder of what was brought.

    Raises:
        NotPossibleYet: if there is none; the message names the commands that bring one.
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
    raise NotPossibleYet(
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
    return brought.keep(file, weights_name(size), f"EfficientAD's teacher of size {size}", wanted, weights)
