# SPDX-License-Identifier: Apache-2.0
"""Training of EfficientAD, and calibration on held-out images."""

import time
from collections.abc import Callable, Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blemish_core.detectors.base import (
    MAPS_KEPT,
    HeldOutScores,
    Prediction,
    ReadImage,
    TrainingContext,
    TrainingResult,
    highest,
    running_on,
)
from blemish_core.detectors.common.embedding import temperature
from blemish_core.detectors.common.masking import split_looks
from blemish_core.detectors.common.split import split_images
from blemish_core.detectors.efficientad import teacher as teachers
from blemish_core.detectors.efficientad.network import UNIT, patches_seen
from blemish_core.detectors.efficientad.settings import CHANNELS, MIN_IMAGES, EfficientAdSettings
from blemish_core.detectors.efficientad.training.checkpoint import Checkpoint
from blemish_core.detectors.efficientad.training.images import TrainingImages
from blemish_core.detectors.efficientad.training.loop import TrainingLoop
from blemish_core.detectors.efficientad.training.photographs import photographs
from blemish_core.detectors.efficientad.training.plan import TrainingClock, TrainingPlan
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd
from blemish_core.platform.errors import FailedPrecondition

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

_SHARED_BELOW = 10  # held-out images; fewer serve for validation too
_CENTER_IMAGES = 32  # whose mean is the origin of embeddings
_PATCH_STEP = 4  # neighbouring patches overlap, so every fourth is enough
_BATCH = 4


def train(
    settings: EfficientAdSettings,
    images: Sequence[ReadImage],
    context: TrainingContext,
    now: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train on good images and calibrate on images held out of them.

    A fifth of the images is held out, or as many as the target false-reject rate needs, but at most a
    third. Half as many again are validation images, for the quantiles of the maps and for early stopping.
    If fewer than 10 images are held out, they serve for validation too.

    Args:
        settings: the detector's settings.
        images: good images.
        context: resources and limits.
        now: clock of the time limit, in seconds.

    Raises:
        FailedPrecondition: with fewer than 3 images, or without a teacher or photographs.
    """
    if len(images) < MIN_IMAGES:
        raise FailedPrecondition(
            f"EfficientAD needs at least {MIN_IMAGES} good images, but the dataset has {len(images)} in "
            "train/good; upload more"
        )
    teacher = teachers.find(settings.size, context.weights)
    torch.manual_seed(context.seed)
    plan = TrainingPlan.of(settings, context.device)
    detector = TrainableEfficientAd(settings, context.device, autoencoder=not plan.solved)
    detector.mask = context.mask
    detector.model.teacher.load_state_dict(teacher.weights)
    others, source = photographs(context.photographs, context.weights / "imagenette")

    split = split_images(images, np.random.default_rng(context.seed), context)
    held_out, learned = split.held_out, split.learned
    validation = held_out
    if len(held_out) >= _SHARED_BELOW:
        validation, learned = split.validation(ceil(len(held_out) / 2))
    checkpoint = Checkpoint(context.checkpoint)
    saved = checkpoint.load()
    if saved is not None and not saved.fits(detector.trained):
        saved = None
    clock = TrainingClock(0.0 if saved is None else saved.state.spent_s, now)
    # Crops take the other half of the memory.
    max_bytes = context.max_feature_bytes // (2 if plan.solved else 1)
    surface = TrainingImages(detector, images, context.device, max_bytes)
    if saved is not None:
        learned = learned[: saved.state.images]
    else:
        learned = _affordable(surface, learned, plan, clock, context)
    _measure_teacher(detector.model, surface, learned, context)
    loop = TrainingLoop(
        detector, surface, learned, validation, others, context, plan, clock, checkpoint, saved
    )
    facts = loop.run() | {"teacher": teacher.origin, "penalty": source}

    _measure_maps(detector, surface, validation)
    # The networks are final from here on, so a faster runtime can take over.
    with running_on(detector, context.fast_runtime(detector.network, detector.network_size)):
        _measure_center(detector, surface, np.concatenate([validation, learned])[:_CENTER_IMAGES], context)
        predictions = _predict_held_out(detector, surface, held_out, context)
    scores = tuple(prediction.score for prediction in predictions)
    detector.measure_score_scale(scores)
    maxima = tuple(float(prediction.anomaly_map.max()) for prediction in predictions)
    return TrainingResult(
        detector,
        HeldOutScores(
            scores, maxima, {each: predictions[each].anomaly_map for each in highest(scores, MAPS_KEPT)}
        ),
        len(learned),
        "held out",
        facts,
        tuple(held_out.tolist()),
        split.copies,
        split.scored_indices,
    )


def _affordable(
    images: TrainingImages,
    learned: NDArray[np.int64],
    plan: TrainingPlan,
    clock: TrainingClock,
    context: TrainingContext,
) -> NDArray[np.int64]:
    """Return as many of the images as there is time to learn from, and announce the plan.

    The time of the teacher for one image is measured.
    """
    with torch.inference_mode():
        images.teacher_features(int(learned[0]))  # the first one takes longer
        began_s = clock.spent_s
        images.teacher_features(int(learned[-1]))
    image_s = clock.spent_s - began_s
    count = int(min(plan.affordable_images(image_s), len(learned)))
    context.announce(plan.describe(count, image_s))
    if count < len(learned):
        context.warn(
            f"{plan.seconds:.0f} s suffice to learn from {count} of {len(learned)} training images; allow "
            "more time with max_duration"
        )
    return learned[:count]


def _measure_teacher(
    model: "EfficientAdModel",
    images: TrainingImages,
    learned: NDArray[np.int64],
    context: TrainingContext,
) -> None:
    """Set the mean and standard deviation of the teacher's channels on the images to train on."""
    total = squares = torch.zeros(CHANNELS, dtype=torch.float64)
    count = 0
    with torch.inference_mode():
        for done, number in enumerate(learned):
            context.progress("teacher", done, len(learned), "images")
            features = images.teacher_features(int(number)).double()[0].cpu()  # (384, R, R)
            looks = images.looks(int(number))
            features = features.flatten(1) if looks is None else features[:, patches_seen(looks.cpu())]
            total = total + features.sum(1)
            squares = squares + features.square().sum(1)
            count += features.shape[1]
    context.progress("teacher", len(learned), len(learned), "images")
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(1e-12).sqrt()
    model.mean_std["mean"].data.copy_(mean.float().view(1, -1, 1, 1))
    model.mean_std["std"].data.copy_(std.float().view(1, -1, 1, 1))


def _measure_maps(
    detector: TrainableEfficientAd, images: TrainingImages, validation: NDArray[np.int64]
) -> None:
    """Measure the quantiles and the spread of the maps on validation images."""
    with torch.inference_mode():
        maps = list(zip(*(_raw_maps(detector, images, int(each)) for each in validation), strict=True))
        quantiles: dict[str, Tensor] = {}
        units = []
        for name, of_images in zip(detector.map_names, maps, strict=True):
            # torch.quantile is limited to 16 M values.
            low, high = np.quantile(torch.cat(of_images).cpu().numpy(), [0.9, 0.995])
            quantiles |= {f"qa_{name}": torch.tensor(low), f"qb_{name}": torch.tensor(high)}
            units.append(quantiles[f"qb_{name}"] - quantiles[f"qa_{name}"])
        # The model's combination of the maps, each scaled by its quantiles.
        weight = UNIT / len(units)
        combined = [
            torch.stack([each / unit for each, unit in zip(of_image, units, strict=True)]).sum(0)
            for of_image in zip(*maps, strict=True)
        ]
        spread = temperature(weight * torch.cat(combined))
    detector.measure_maps(quantiles, spread)


def _raw_maps(detector: TrainableEfficientAd, images: TrainingImages, number: int) -> list[Tensor]:
    """Return the maps of an image before their normalisation, each (N,), without ignored pixels."""
    looks = images.looks(number)
    maps = [each[0, 0] for each in detector.raw_maps(images.prepared(number))]
    return [each.flatten() if looks is None else each[looks] for each in maps]


def _measure_center(
    detector: TrainableEfficientAd,
    images: TrainingImages,
    good: NDArray[np.int64],
    context: TrainingContext,
) -> None:
    """Measure the mean of the pooled features of several good images, and the whitening of their patches.

    The mean of one image alone would be that image.
    """
    total = torch.zeros(CHANNELS, dtype=torch.float64)
    patches = []
    with torch.inference_mode():
        for start in range(0, len(good), _BATCH):
            context.progress("center", start, len(good), "images")
            batch = [images.input(int(number)) for number in good[start : start + _BATCH]]
            _, pooled, features = detector.outputs(batch)
            total += pooled.double().sum(0).cpu()
            for each, (looks,) in zip(features, (split_looks([one])[1] for one in batch), strict=True):
                seen = each.flatten(1) if looks is None else each[:, patches_seen(looks)]
                patches.append(seen.T[::_PATCH_STEP].cpu())
    context.progress("center", len(good), len(good), "images")
    detector.measure_center((total / len(good)).float())
    detector.measure_embedding_whitening(torch.cat(patches))


def _predict_held_out(
    detector: TrainableEfficientAd,
    images: TrainingImages,
    held_out: NDArray[np.int64],
    context: TrainingContext,
) -> list[Prediction]:
    predictions: list[Prediction] = []
    for start in range(0, len(held_out), _BATCH):
        context.progress("calibration", start, len(held_out), "images")
        batch = [images.input(int(number)) for number in held_out[start : start + _BATCH]]
        predictions += detector.predict(batch)
    context.progress("calibration", len(held_out), len(held_out), "images")
    return predictions
