# SPDX-License-Identifier: Apache-2.0
"""The OpenVINO networks of a bundle, in float32 and INT8, with the checks that gate them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from blemish_core.detectors.base import (
    Detector,
    Image,
    Prediction,
    Progress,
    ReadImage,
    Runtime,
    TrainingResult,
    running_on,
)
from blemish_core.detectors.registry import ALGORITHMS, Algorithm
from blemish_core.evaluation import metrics
from blemish_core.evaluation.alteration import altered
from blemish_core.imaging.frame_mask import visible
from blemish_core.imaging.geometry import Size
from blemish_core.models.bundle import OPENVINO as FOLDER
from blemish_core.runtimes import openvino_runtime, parity, quantization
from blemish_core.runtimes.card import HeldOut, Quantization, RuntimeCard
from blemish_core.runtimes.choice import INT8, OPENVINO, TORCH, RuntimeChoice
from blemish_core.runtimes.openvino_runtime import NotConvertible, OpenVinoRuntime

log = structlog.get_logger(__name__)

_FILE = f"{FOLDER}/model.xml"
_INT8_FILE = f"{FOLDER}/int8.xml"
_INT8_TENSORS = f"{FOLDER}/int8.safetensors"
_BATCH = 8
_MOST_ALTERED = 100
"""Most altered good images that measure the cost of INT8."""
_TRIES = 20
"""Most alterations of an image until one is not hidden by the mask."""

Retrain = Callable[[Runtime], TrainingResult]
"""Repeats the training on the features of another runtime."""


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
        calibration_images=0,
        auroc_f32=auroc_f32,
        auroc_int8=None,
        max_drop=ALGORITHMS[detector.name].max_int8_drop,
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
        _remove_int8(folder)
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


def export_retrained_int8(
    training: TrainingResult,
    splits: ImageSplits,
    auroc_f32: float | None,
    folder: Path,
    seed: int,
    progress: Progress,
    retrain: Retrain,
) -> RuntimeCard:
    """Quantize the exported network, repeat the training on its features, and keep both if AUROC allows it.

    For detectors that compare features with stored ones, which are then those of the quantized network.
    Without good and defective test images, AUROC is that of altered good images against good ones.

    Args:
        training: result of the training in float32, exported into ``folder`` before.
        splits: images of the dataset.
        auroc_f32: image AUROC on the test images in float32; None without images of both kinds.
        folder: folder of the bundle.
        seed: seed of the golden and of the altered images.
        progress: called for each image that is calibrated on or scored.
        retrain: training with the same settings, images and seed.
    """
    detector = training.detector
    held_out = set(training.held_out_indices)
    learned = [read for number, read in enumerate(splits.train) if number not in held_out]
    used = quantization.quantize(
        folder / _FILE,
        folder / _INT8_FILE,
        [partial(_prepared, detector, read) for read in learned],
        lambda done, total: progress("int8 ranges", done, total, "images"),
        quantization.FEATURE_MAPS,
    )
    runtime = OpenVinoRuntime(folder / _INT8_FILE, name=INT8)
    retrained = retrain(runtime)
    algorithm = ALGORITHMS[detector.name]
    tensors = retrained.detector.tensors()
    own = {name: tensors[name] for name in sorted(algorithm.int8_tensors & tensors.keys())}
    save_file(own, folder / _INT8_TENSORS)
    int8 = _with_tensors(algorithm, detector, own)
    int8.run_on(runtime)
    compared = parity.compare_detectors(detector, int8, _golden_images(detector, splits, seed))
    measured = Quantization(
        calibration_images=used, auroc_f32=auroc_f32, auroc_int8=None, max_drop=algorithm.max_int8_drop
    )
    if auroc_f32 is not None:
        good, defective = _predictions(int8, (splits.good, splits.defective), progress)
        measured = measured.model_copy(
            update={"auroc_int8": metrics.image_auroc(_scores(good), _scores(defective))}
        )
    else:
        measured = _on_altered(measured, training, retrained, int8, splits, folder, seed, progress)
    refusal = quantization.refusal(measured)
    if refusal:
        _remove_int8(folder)
    held = retrained.held_out_scores
    return RuntimeCard(
        file=None if refusal else _INT8_FILE,
        refusal=refusal,
        parity=compared,
        quantization=measured,
        held_out=HeldOut(scores=tuple(sorted(held.scores)), map_maxima=tuple(sorted(held.map_maxima))),
        tensors=None if refusal else _INT8_TENSORS,
    )


def _with_tensors(algorithm: Algorithm, detector: Detector, own: dict[str, Tensor]) -> Detector:
    """Return a detector as it is loaded with tensors of its own."""
    shared = {name: each for name, each in detector.tensors().items() if name not in algorithm.int8_tensors}
    made = algorithm.load(detector.settings, shared | own, "cpu")
    made.mask = detector.mask
    return made


def _on_altered(
    measured: Quantization,
    training: TrainingResult,
    retrained: TrainingResult,
    int8: Detector,
    splits: ImageSplits,
    folder: Path,
    seed: int,
    progress: Progress,
) -> Quantization:
    """Return the AUROC of altered good images against good ones, in float32 and in INT8.

    Good test images are altered if there are any. Otherwise training images are, whose scores as good
    images are those of detectors that did not learn them.
    """
    reads = splits.good or splits.train
    chosen = reads[:: -(-len(reads) // _MOST_ALTERED)]
    changed = [partial(_altered, int8, read, seed + number) for number, read in enumerate(chosen)]
    aurocs = []
    with running_on(training.detector, OpenVinoRuntime(folder / _FILE)):
        for detector, result in ((training.detector, training), (int8, retrained)):
            good, defective = _predictions(detector, (splits.good, changed), progress)
            scores = _scores(good) if splits.good else list(result.held_out_scores.scores)
            aurocs.append(metrics.image_auroc(scores, _scores(defective)))
    return measured.model_copy(
        update={"auroc_f32": aurocs[0], "auroc_int8": aurocs[1], "altered": len(changed)}
    )


def _altered(detector: Detector, read: ReadImage, seed: int) -> Image:
    """Return an altered copy of an image, changed where the detector looks if one of several tries is."""
    image, mask = read(), detector.mask
    changed = altered(image, seed)
    if mask is None:
        return changed
    seen = visible(image, mask)
    for again in range(_TRIES):
        if (visible(changed, mask) != seen).any():
            break
        changed = altered(image, seed + _MOST_ALTERED * (1 + again))
    return changed


def _scores(predictions: Sequence[Prediction]) -> list[float]:
    return [each.score for each in predictions]


def _remove_int8(folder: Path) -> None:
    """Remove the files of INT8 that is not published."""
    network = folder / _INT8_FILE
    for file in (network, network.with_suffix(".bin"), folder / _INT8_TENSORS):
        file.unlink(missing_ok=True)


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
