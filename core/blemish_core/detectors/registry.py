# SPDX-License-Identifier: Apache-2.0
"""The available detectors by name. torch is imported only when a training begins or a model is loaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blemish_core.detectors.base import Detector, ReadImage, TrainingContext, TrainingResult
from blemish_core.detectors.common.backbone import require_weights
from blemish_core.detectors.efficientad import settings as efficientad
from blemish_core.detectors.efficientad import teacher_files
from blemish_core.detectors.patchcore import settings as patchcore
from blemish_core.imaging.geometry import Size

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Algorithm:
    """A detector as jobs and bundles use it."""

    name: str
    title: str
    settings: Callable[..., Any]
    """Factory of the settings, which raises InvalidRequest if a value is not valid."""
    train: Callable[[Any, Sequence[ReadImage], TrainingContext], TrainingResult]
    load: "Callable[[Mapping[str, Any], Mapping[str, Tensor], str], Detector]"
    """Factory of a detector from settings, tensors and device."""
    min_images: int
    max_int8_drop: float = 0.005
    """Largest loss of image AUROC at which INT8 is published."""
    int8_tensors: frozenset[str] = frozenset()
    """Tensors that INT8 has of its own, from a training on its features; empty if it shares all."""
    check: Callable[[Any, Sequence[Size], Path], None] = lambda settings, sizes, weights: None
    """Check of settings, image sizes and the folder of imported weights, without reading images or weights.

    A server without the libraries of training leaves part of it to the worker.

    It raises InvalidRequest or FailedPrecondition if a training could not succeed.
    """


def _train_patchcore(
    settings: patchcore.PatchCoreSettings, images: Sequence[ReadImage], context: TrainingContext
) -> TrainingResult:
    from blemish_core.detectors.patchcore.training.train import train

    return train(settings, images, context)


def _train_efficientad(
    settings: efficientad.EfficientAdSettings, images: Sequence[ReadImage], context: TrainingContext
) -> TrainingResult:
    from blemish_core.detectors.efficientad.training.train import train

    return train(settings, images, context)


def _check_patchcore(settings: patchcore.PatchCoreSettings, sizes: Sequence[Size], weights: Path) -> None:
    from blemish_core.detectors.patchcore.training.plan import plan_for_sizes

    plan_for_sizes(settings, sizes)
    if find_spec("timm") is not None:  # else the weights are on the worker
        require_weights(settings.extractor(), weights)


def _check_efficientad(
    settings: efficientad.EfficientAdSettings, sizes: Sequence[Size], weights: Path
) -> None:
    teacher_files.require(settings.size, weights)


def _load_patchcore(settings: Mapping[str, Any], tensors: "Mapping[str, Tensor]", device: str) -> Detector:
    from blemish_core.detectors.patchcore.detector import PatchCore

    return PatchCore.load(settings, tensors, device)


def _load_efficientad(
    settings: Mapping[str, Any], tensors: "Mapping[str, Tensor]", device: str
) -> Detector:
    from blemish_core.detectors.efficientad.detector import EfficientAd

    return EfficientAd.load(settings, tensors, device)


_ALL = (
    Algorithm(
        patchcore.NAME,
        "PatchCore",
        patchcore.requested,
        _train_patchcore,
        _load_patchcore,
        patchcore.MIN_IMAGES,
        max_int8_drop=0.003,
        int8_tensors=patchcore.FEATURE_TENSORS,
        check=_check_patchcore,
    ),
    Algorithm(
        efficientad.NAME,
        "EfficientAD",
        efficientad.EfficientAdSettings,
        _train_efficientad,
        _load_efficientad,
        efficientad.MIN_IMAGES,
        check=_check_efficientad,
    ),
)
ALGORITHMS: Mapping[str, Algorithm] = {algorithm.name: algorithm for algorithm in _ALL}
