# SPDX-License-Identifier: Apache-2.0
"""The detectors there are, by name: their settings, how they learn and how they are rebuilt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blemish_core.detectors import efficientad, efficientad_training, patchcore, patchcore_training
from blemish_core.detectors.detector import Detector, ReadImage, Terms, Training


@dataclass(frozen=True)
class Algorithm:
    """A detector's class, as jobs and bundles need it."""

    name: str
    title: str
    settings: Callable[..., Any]
    """Checks settings given by keyword, raising InvalidRequest."""
    train: Callable[[Any, Sequence[ReadImage], Terms], Training]
    load: Callable[[Mapping[str, Any], Mapping[str, Tensor], str], Detector]
    """From settings, tensors and the device."""
    min_images: int
    quantizable: bool = False
    """Whether its network bears INT8."""


_ALL = (
    Algorithm(
        patchcore.NAME,
        "PatchCore",
        patchcore.PatchCoreSettings,
        patchcore_training.train,
        patchcore.PatchCore.load,
        patchcore_training.MIN_IMAGES,
    ),
    Algorithm(
        efficientad.NAME,
        "EfficientAD",
        efficientad.EfficientAdSettings,
        efficientad_training.train,
        efficientad.EfficientAd.load,
        efficientad_training.MIN_IMAGES,
        quantizable=True,
    ),
)
ALGORITHMS: Mapping[str, Algorithm] = {algorithm.name: algorithm for algorithm in _ALL}
