# SPDX-License-Identifier: Apache-2.0
"""What a training publishes beside torch's weights: its network for OpenVINO, checked, and in INT8."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

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
from blemish_core.models.bundle import OPENVINO as FOLDER
from blemish_core.runtimes import openvino_runtime, parity, quantization
from blemish_core.runtimes.card import HeldOut, Quantization, RuntimeCard
from blemish_core.runtimes.choice import INT8, OPENVINO, TORCH, RuntimeChoice
from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime

_FILE = f"{FOLDER}/model.xml"
_INT8_FILE = f"{FOLDER}/int8.xml"
_BATCH = 8


@dataclass(frozen=True)
class Surface:
    """The images of a dataset, as a training saw them and as a test sees them."""

    train: Sequence[ReadImage]
    good: Sequence[ReadImage]
    """Of the test images."""
    defective: Sequence[ReadImage]


def fast(device: str, choice: RuntimeChoice, network: nn.Module, input_size: int) -> OpenVinoRuntime | None:
    """Make a runtime for a training on ``device`` that is faster than torch there, if there is one."""
    if torch.device(device).type != "cpu" or choice.name == TORCH:
        return None
    return OpenVinoRuntime.of(network, input_size, threads=choice.threads)


def export(
    training: TrainingResult, surface: Surface, folder: Path, seed: int, progress: Progress
) -> RuntimeCard:
    """Write a detector's network for OpenVINO into a bundle and hold it to torch on golden images.

    Raises:
        RuntimesDisagree: if it gives other answers.
    """
    detector = training.detector
    progress("openvino", 0, 1, "networks")
    openvino_runtime.export(detector.network, detector.input_size, folder / _FILE)
    compared = parity.compare(
        detector,
        OpenVinoRuntime(folder / _FILE),
        _golden(detector, surface, seed),
        tolerance=parity.TOLERANCE,
    )
    parity.check(compared, OPENVINO)
    progress("openvino", 1, 1, "networks")
    return RuntimeCard(file=_FILE, parity=compared)


def quantize(
    training: TrainingResult,
    surface: Surface,
    auroc_f32: float | None,
    folder: Path,
    seed: int,
    progress: Progress,
) -> RuntimeCard:
    """Write the exported network in INT8 too, where the test images show that it loses next to nothing.

    Args:
        training: the detector, exported into ``folder`` before.
        surface: its images.
        auroc_f32: image AUROC on the test images in float32, None if they are not of both kinds.
        folder: the bundle.
        seed: of the golden images.
        progress: hears of each image that calibrates or measures.
    """
    detector, held_out = training.detector, training.held_out_indices
    measured = Quantization(
        calibration_images=0, auroc_f32=auroc_f32, auroc_int8=None, max_drop=quantization.MAX_DROP
    )
    if auroc_f32 is None:
        return RuntimeCard(file=None, refusal=quantization.refusal(measured), quantization=measured)
    if not held_out:
        why = "the detector has learned from every good image, so none can calibrate INT8's scores"
        return RuntimeCard(file=None, refusal=why, quantization=measured)
    held = set(held_out)
    learned = [read for number, read in enumerate(surface.train) if number not in held]
    used = quantization.quantize(
        folder / _FILE,
        folder / _INT8_FILE,
        [partial(_prepared, detector, read) for read in learned],
        lambda done, total: progress("int8 ranges", done, total, "images"),
    )
    runtime = OpenVinoRuntime(folder / _INT8_FILE, name=INT8)
    compared = parity.compare(detector, runtime, _golden(detector, surface, seed), tolerance=None)
    kinds = (surface.good, surface.defective, [surface.train[number] for number in held_out])
    with running_on(detector, runtime):
        outcomes = iter(_outcomes(detector, [read for reads in kinds for read in reads], progress))
    good, defective, others = ([next(outcomes) for _ in reads] for reads in kinds)
    auroc = metrics.image_auroc(
        [outcome.score for outcome in good], [outcome.score for outcome in defective]
    )
    measured = measured.model_copy(update={"calibration_images": used, "auroc_int8": auroc})
    refusal = quantization.refusal(measured)
    if refusal:
        for file in (folder / _INT8_FILE, (folder / _INT8_FILE).with_suffix(".bin")):
            file.unlink()
    return RuntimeCard(
        file=None if refusal else _INT8_FILE,
        refusal=refusal,
        parity=compared,
        quantization=measured,
        held_out=HeldOut(
            scores=tuple(sorted(outcome.score for outcome in others)),
            map_maxima=tuple(sorted(float(outcome.anomaly_map.max()) for outcome in others)),
        ),
    )


def _golden(detector: Detector, surface: Surface, seed: int) -> list[Tensor]:
    reads = surface.train[:: -(-len(surface.train) // parity.GOLDEN_IMAGES)]
    return parity.golden_images([_prepared(detector, read) for read in reads], seed)


def _outcomes(detector: Detector, reads: Sequence[ReadImage], progress: Progress) -> list[Prediction]:
    outcomes: list[Prediction] = []
    for start in range(0, len(reads), _BATCH):
        progress("int8 evaluation", start, len(reads), "images")
        outcomes += detector.predict([_prepared(detector, read) for read in reads[start : start + _BATCH]])
    progress("int8 evaluation", len(reads), len(reads), "images")
    return outcomes


def _prepared(detector: Detector, read: ReadImage) -> Tensor:
    return detector.prepare(read())
