# SPDX-License-Identifier: Apache-2.0
"""The detectors there are, by name: their settings, how they learn and how they are rebuilt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blemish_core.detectors.base import Detector, ReadImage, Training, TrainingContext
from blemish_core.detectors.efficientad import detector as efficientad
from blemish_core.detectors.efficientad.training import train as efficientad_training
from blemish_core.detectors.patchcore import detector as patchcore
from blemish_core.detectors.patchcore.training import train as patchcore_training


@dataclass(frozen=True)
class Algorithm:
    """A detector's class, as jobs and bundles need it."""

    name: str
    title: str
    settings: Callable[..., Any]
    """Checks settings given by keyword, raising InvalidRequest."""
    train: Callable[[Any, Sequence[ReadImage], TrainingContext], Training]
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
