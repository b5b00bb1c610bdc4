# SPDX-License-Identifier: Apache-2.0
"""The OpenVINO networks of a bundle, in float32 and INT8, with the checks that gate them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import torch
from torch import Tensor, nn

from blemish_core.detectors.base import (
    Detector,
    Prediction,
    Progress,
    ReadImage,
    TrainingResult,
    running_on,
)
from blemish_core.evaluation import metrics
from blemish_core.imaging.geometry import Size
from blemish_core.models.bundle import OPENVINO as FOLDER
from blemish_core.runtimes import openvino_runtime, parity, quantization
from blemish_core.runtimes.card import HeldOut, Quantization, RuntimeCard
from blemish_core.runtimes.choice import INT8, OPENVINO, TORCH, RuntimeChoice
from blemish_core.runtimes.openvino_runtime import NotConvertible, OpenVinoRuntime

log = structlog.get_logger(__name__)

_FILE = f"{FOLDER}/model.xml"
_INT8_FILE = f"{FOLDER}/int8.xml"
_BATCH = 8


@dataclass(frozen=True)
class ImageSplits:
    """The images on which exported networks are checked and quantized."""

    train: Sequence[ReadImage]
    good: Sequence[ReadImage]
    """Good test images."""
    defective: Sequence[ReadImage]
    """Defective test images."""


def faster_runtime(
    device: str, choice: RuntimeChoice, network: nn.Module, input_size: Size
) -> OpenVinoRuntime | None:
    """Return a runtime that is faster than torch on ``device``; None if there is none."""
    if torch.device(device).type != "cpu" or choice.name == TORCH:
        return None
    try:
        return OpenVinoRuntime.of(network, input_size, threads=choice.threads)
    except NotConvertible as refusal:
        log.warning("network not converted to OpenVINO", reason=str(refusal))
        return None


def export_openvino(
    training: TrainingResult, splits: ImageSplits, folder: Path, seed: int, progress: Progress
) -> RuntimeCard:
    """Write the detector's network for OpenVINO into a bundle and compare it with torch on golden images.

    A network that OpenVINO cannot run for inputs of all sizes is left out, and the card gives the reason.

    Raises:
        RuntimesDisagree: if the results differ by more than the tolerance.
    """
    detector = training.detector
    progress("openvino", 0, 1, "networks")
    try:
        openvino_runtime.export(detector.network, detector.network_size, folder / _FILE)
    except NotConvertible as refusal:
        return RuntimeCard(file=None, refusal=str(refusal))
    compared = parity.compare(
        detector,
        OpenVinoRuntime(folder / _FILE),
        _golden_images(detector, splits, seed),
        tolerance=parity.TOLERANCE,
    )
    parity.check(compared, OPENVINO)
    progress("openvino", 1, 1, "networks")
    return RuntimeCard(file=_FILE, parity=compared)


def export_int8(
    training: TrainingResult,
    splits: ImageSplits,
    auroc_f32: float | None,
    folder: Path,
    seed: int,
    progress: Progress,
) -> RuntimeCard:
    """Quantize the exported network to INT8 and keep it if the loss of AUROC is small enough.

    Args:
        training: result of the training, exported into ``folder`` before.
        splits: images of the dataset.
        auroc_f32: image AUROC on the test images in float32; None without images of both kinds.
        folder: folder of the bundle.
        seed: seed of the golden images.
        progress: called for each image that is calibrated on or scored.
    """
    detector, held_out = training.detector, training.held_out_indices
    measured = Quantization(
        calibration_images=0, auroc_f32=auroc_f32, auroc_int8=None, max_drop=quantization.MAX_DROP
    )
    if auroc_f32 is None:
        return RuntimeCard(file=None, refusal=quantization.refusal(measured), quantization=measured)
    if not held_out:
        why = "the detector learned from every good image, so none is left to calibrate INT8 scores"
        return RuntimeCard(file=None, refusal=why, quantization=measured)
    learned = [read for number, read in enumerate(splits.train) if number not in set(held_out)]
    used = quantization.quantize(
        folder / _FILE,
        folder / _INT8_FILE,
        [partial(_prepared, detector, read) for read in learned],
        lambda done, total: progress("int8 ranges", done, total, "images"),
    )
    runtime = OpenVinoRuntime(folder / _INT8_FILE, name=INT8)
    compared = parity.compare(detector, runtime, _golden_images(detector, splits, seed), tolerance=None)
    calibration_reads = [splits.train[number] for number in held_out]
    with running_on(detector, runtime):
        good, defective, calibrating = _predictions(
            detector, (splits.good, splits.defective, calibration_reads), progress
        )
    auroc = metrics.image_auroc([each.score for each in good], [each.score for each in defective])
    measured = measured.model_copy(update={"calibration_images": used, "auroc_int8": auroc})
    refusal = quantization.refusal(measured)
    if refusal:
        (folder / _INT8_FILE).unlink()
        (folder / _INT8_FILE).with_suffix(".bin").unlink()
    return RuntimeCard(
        file=None if refusal else _INT8_FILE,
        refusal=refusal,
        parity=compared,
        quantization=measured,
        held_out=HeldOut(
            scores=tuple(sorted(each.score for each in calibrating)),
            map_maxima=tuple(sorted(float(each.anomaly_map.max()) for each in calibrating)),
        ),
    )


def _golden_images(detector: Detector, splits: ImageSplits, seed: int) -> list[Tensor]:
    reads = splits.train[:: -(-len(splits.train) // parity.GOLDEN_IMAGES)]
    return parity.golden_images([_prepared(detector, read) for read in reads], seed)


def _predictions(
    detector: Detector, groups: Sequence[Sequence[ReadImage]], progress: Progress
) -> list[list[Prediction]]:
    """Return the predictions of each group of images."""
    reads = [read for group in groups for read in group]
    predictions: list[Prediction] = []
    for start in range(0, len(reads), _BATCH):
        progress("int8 evaluation", start, len(reads), "images")
        batch = [_prepared(detector, read) for read in reads[start : start + _BATCH]]
        predictions += detector.predict(batch)
    progress("int8 evaluation", len(reads), len(reads), "images")
    remaining = iter(predictions)
    return [[next(remaining) for _ in group] for group in groups]


def _prepared(detector: Detector, read: ReadImage) -> Tensor:
    return detector.prepare(read())
