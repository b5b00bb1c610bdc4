# SPDX-License-Identifier: Apache-2.0
"""The measurement of a worker's speed, from which the cost of a training is estimated before it starts.

It takes some seconds and is stored, so that a machine repeats it only after a change of a library. Images
are drawn: speed depends little on their content.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import cv2
import numpy as np
import structlog
import torch

from blemish_core.detectors.base import Detector, Image, running_on
from blemish_core.detectors.efficientad import teacher as teachers
from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.efficientad.training.crops import FeatureCrops, TargetFeatures
from blemish_core.detectors.efficientad.training.images import TrainingImages
from blemish_core.detectors.efficientad.training.loop import StepLosses
from blemish_core.detectors.efficientad.training.losses import standardised
from blemish_core.detectors.efficientad.training.plan import TrainingPlan
from blemish_core.detectors.efficientad.training.start import copy_teacher
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd
from blemish_core.detectors.efficientad.training.whole_images import WholeImages
from blemish_core.detectors.patchcore.settings import DEFAULT_INPUT_SIZE, PatchCoreSettings
from blemish_core.detectors.patchcore.training.train import products_per_s
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.imaging.decode import decode
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers.export import faster_runtime
from blemish_core.jobs.handlers.frame_latency import one_thread
from blemish_core.jobs.training_rates import EfficientAdRates, PatchCoreRates, RatesFile, TrainingRates
from blemish_core.platform.errors import FailedPrecondition
from blemish_core.platform.gc_tuning import gc_paused
from blemish_core.platform.locks import LockHeld, process_lock
from blemish_core.platform.processor import cpu_name
from blemish_core.runtimes import openvino_runtime
from blemish_core.runtimes.choice import TORCH, RuntimeChoice

_REPEATED = 3
_BATCH = 8
_BANKS = (2_500, 10_000)
"""Entries of the banks that are searched: from 2,048 on, the search is approximate."""

_Measured = TypeVar("_Measured", PatchCoreRates, EfficientAdRates)

log = structlog.get_logger(__name__)


def store_rates(context: JobContext) -> None:
    """Measure the speed of this process's device and store it, unless that was done before.

    A failure is logged only: trainings then start without an estimate.
    """
    file = RatesFile(context.rates, context.device, context.runtime.name)
    if file.read() is not None:
        return
    began = time.monotonic()
    try:
        context.rates.mkdir(parents=True, exist_ok=True)
        with process_lock(context.rates / "measuring"), gc_paused():
            file.write(measure(context))
    except LockHeld:
        log.info("speed is measured by another process")
    except Exception as error:
        log.warning("speed not measured", error=repr(error))
    else:
        log.info("speed measured", seconds=round(time.monotonic() - began, 3))


def measure(context: JobContext) -> TrainingRates:
    """Return the speed of the device of ``context``; without the detectors whose weights are missing."""
    image = _drawn_image()
    encoded = cv2.imencode(".png", image)[1].tobytes()
    on_cpu = torch.device(context.device).type == "cpu"
    return TrainingRates(
        device=context.device,
        processor=cpu_name() if on_cpu else torch.cuda.get_device_name(context.device),
        threads=torch.get_num_threads(),
        decode_s=_median_s(lambda: decode(encoded)) / (image.shape[0] * image.shape[1]),
        patchcore=_if_possible(_patchcore, context, image),
        efficientad=_if_possible(_efficientad, context, image),
    )


def _if_possible(
    measured: Callable[[JobContext, Image], _Measured], context: JobContext, image: Image
) -> _Measured | None:
    try:
        return measured(context, image)
    except FailedPrecondition as error:  # weights are missing
        log.info("detector not measured", reason=str(error))
        return None


def _patchcore(context: JobContext, image: Image) -> PatchCoreRates:
    settings = PatchCoreSettings(scale=1.0)
    detector = TrainablePatchCore(settings, context.device)
    detector.load_pretrained(context.weights)
    prepared = detector.prepare(image)
    batch = [prepared] * _BATCH
    with torch.inference_mode(), running_on(detector, _runtime(context, detector)):
        patches = [each.features for each in detector.patches(batch)]
        count, features = patches[0].shape
        features_s = _median_s(lambda: detector.patches(batch)) / (_BATCH * count)
        products = median(products_per_s(patches[0]) for _ in range(_REPEATED))
    spread = torch.cat(patches).repeat(2, 1)
    noise = torch.randn(spread.shape, generator=torch.Generator().manual_seed(0)).to(spread.device)
    bank = spread + spread.std() * noise  # equal entries would be a bank of one
    with one_thread(), running_on(detector, _frame_runtime(context, detector)):
        frame_s = _median_s(lambda: detector.patches([detector.prepare(image)])) / count
        searches = []
        for entries in _BANKS:
            detector.set_memory_bank(bank[:entries].clone())
            detector.find_supports()
            whole_s = _median_s(lambda: detector.predict([detector.prepare(image)]))
            searches.append((entries, max(0.0, whole_s / count - frame_s)))
    with one_thread():  # by torch
        checked_s = _median_s(lambda: detector.patches([prepared])) / count
    return PatchCoreRates(
        backbone=settings.backbone,
        features_s=features_s,
        pair_s=features / products,
        frame_features_s=frame_s,
        frame_search_s=tuple(searches),
        publish_s=_export_s(context, detector),
        checked_s=checked_s,
    )


def _efficientad(context: JobContext, image: Image) -> EfficientAdRates:
    settings = EfficientAdSettings()
    plan = TrainingPlan.of(settings, context.device)
    detector = TrainableEfficientAd(settings, context.device, autoencoder=not plan.solved)
    detector.model.teacher.load_state_dict(teachers.find(settings.size, context.weights).weights)
    reads = [partial(np.copy, image) for _ in range(_REPEATED)]
    images = TrainingImages(detector, reads, context.device, context.max_feature_bytes)
    teacher_s = []
    for number in range(_REPEATED):
        began = time.perf_counter()
        images.teacher_features(number)
        _wait(context)
        teacher_s.append(time.perf_counter() - began)
    losses = _step_losses(detector, images, solved=plan.solved)
    random = np.random.default_rng(0)
    optimizer = torch.optim.Adam(losses.parameters)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses.loss(random).backward()  # type: ignore[no-untyped-call]  # untyped in torch
        optimizer.step()
        _wait(context)

    detector.model.train()
    step_s = _median_s(step)
    detector.model.eval()
    with one_thread(), running_on(detector, _frame_runtime(context, detector)):
        frame_s = _median_s(lambda: detector.predict([detector.prepare(image)]))
    return EfficientAdRates(
        size=settings.size,
        solved=plan.solved,
        teacher_s=median(teacher_s),
        step_s=step_s,
        frame_s=frame_s,
    )


def _step_losses(detector: TrainableEfficientAd, images: TrainingImages, *, solved: bool) -> StepLosses:
    if not solved:
        numbers = range(_REPEATED)
        return WholeImages(detector.model, images, numbers, numbers, lambda random, image: image)
    copy_teacher(detector.model)
    with torch.inference_mode():
        weights = dict(detector.model.student.named_parameters())
        field = teachers.lower_layers(weights, images.prepared(0))[0].half()
        targets = standardised(detector.model, images.teacher_features(0))[0].half()
    learned = [TargetFeatures(field, targets)]
    return FeatureCrops(detector.model, learned, learned, [field])


def _runtime(context: JobContext, detector: Detector) -> openvino_runtime.OpenVinoRuntime | None:
    return faster_runtime(context.device, context.runtime, detector.network, detector.network_size)


def _frame_runtime(context: JobContext, detector: Detector) -> openvino_runtime.OpenVinoRuntime | None:
    choice = RuntimeChoice(context.runtime.name, threads=1)
    return faster_runtime(context.device, choice, detector.network, detector.network_size)


def _export_s(context: JobContext, detector: Detector) -> float:
    """Return the time to write the network for OpenVINO; 0 if trainings do not."""
    if context.runtime.name == TORCH:
        return 0.0
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        openvino_runtime.export(detector.network, detector.network_size, Path(folder) / "model.xml")
        return time.perf_counter() - began


def _drawn_image() -> Image:
    """Return a square of noise of several scales, with the default side of PatchCore's inputs."""
    random, side = np.random.default_rng(0), DEFAULT_INPUT_SIZE
    drawn = np.full((side, side, 3), 128, np.float32)
    for cell in (1, 4, 16):
        noise = random.normal(scale=20, size=(side // cell, side // cell, 3)).astype(np.float32)
        drawn += cv2.resize(noise, (side, side), interpolation=cv2.INTER_LINEAR)
    return drawn.clip(0, 255).astype(np.uint8)


def _wait(context: JobContext) -> None:
    """Wait until a GPU has finished."""
    if torch.device(context.device).type == "cuda":
        torch.cuda.synchronize(context.device)


def _median_s(call: Callable[[], object]) -> float:
    """Return the median duration of several calls, after one to warm up."""
    call()
    took = []
    for _ in range(_REPEATED):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return median(took)
