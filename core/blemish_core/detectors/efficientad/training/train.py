# SPDX-License-Identifier: Apache-2.0
"""Training of EfficientAD, and calibration on held-out images."""

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blemish_core.detectors.base import (
    HeldOutScores,
    Prediction,
    ReadImage,
    TrainingContext,
    TrainingResult,
    running_on,
)
from blemish_core.detectors.common.embedding import temperature
from blemish_core.detectors.common.masking import split_looks
from blemish_core.detectors.common.split import split_images
from blemish_core.detectors.efficientad import teacher as teachers
from blemish_core.detectors.efficientad.network import patches_seen
from blemish_core.detectors.efficientad.settings import MIN_IMAGES, EfficientAdSettings
from blemish_core.detectors.efficientad.teacher import CHANNELS
from blemish_core.detectors.efficientad.training.loop import TrainingImages, TrainingLoop
from blemish_core.detectors.efficientad.training.photographs import photographs
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd
from blemish_core.platform.errors import FailedPrecondition

if TYPE_CHECKING:
    from blemish_core.detectors.common.anomalib_models import EfficientAdModel

_SHARED_BELOW = 10  # held-out images; fewer serve for validation too
_CENTER_IMAGES = 32  # whose mean is the origin of embeddings
_PATCH_STEP = 4  # neighbouring patches overlap, so every fourth is enough
_BATCH = 4


def train(
    settings: EfficientAdSettings, images: Sequence[ReadImage], context: TrainingContext
) -> TrainingResult:
    """Train on good images and calibrate on images held out of them.

    A fifth of the images is held out, or as many as the target false-reject rate needs, but at most a
    third. Half as many again are validation images, for the quantiles of the maps and for early stopping.
    If fewer than 10 images are held out, they serve for validation too.

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
    detector = TrainableEfficientAd(settings, context.device)
    detector.mask = context.mask
    detector.model.teacher.load_state_dict(teacher.weights)
    others, source = photographs(context.photographs, context.weights / "imagenette")

    split = split_images(images, np.random.default_rng(context.seed), context)
    held_out, learned = split.held_out, split.learned
    validation = held_out
    if len(held_out) >= _SHARED_BELOW:
        validation, learned = split.validation(ceil(len(held_out) / 2))
    surface = TrainingImages(detector, images, context)
    _measure_teacher(detector.model, surface, learned, context)
    loop = TrainingLoop(detector, surface, learned, validation, others, context, settings)
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
        HeldOutScores(scores, maxima),
        len(learned),
        "held out",
        facts,
        tuple(held_out.tolist()),
        split.copies,
    )


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
    model = detector.model
    with torch.inference_mode():
        pairs = [_raw_maps(model, images, int(number)) for number in validation]
        quantiles: dict[str, Tensor] = {}
        for name, maps in zip(("st", "ae"), zip(*pairs, strict=True), strict=True):
            # torch.quantile is limited to 16 M values.
            low, high = np.quantile(torch.cat(maps).cpu().numpy(), [0.9, 0.995])
            quantiles |= {f"qa_{name}": torch.tensor(low), f"qb_{name}": torch.tensor(high)}
        # The model's combination of both maps: each scaled by its quantiles and divided by twenty.
        units = [quantiles[f"qb_{name}"] - quantiles[f"qa_{name}"] for name in ("st", "ae")]
        spread = temperature(torch.cat([0.05 * (st / units[0] + ae / units[1]) for st, ae in pairs]))
    detector.measure_maps(quantiles, spread)


def _raw_maps(model: "EfficientAdModel", images: TrainingImages, number: int) -> tuple[Tensor, Tensor]:
    """Return both maps of an image before their normalisation, (N,), without ignored pixels."""
    student, autoencoder = model.get_maps(images.prepared(number), normalize=False)
    looks = images.looks(number)
    if looks is None:
        return student.flatten(), autoencoder.flatten()
    return student[0, 0][looks], autoencoder[0, 0][looks]


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
