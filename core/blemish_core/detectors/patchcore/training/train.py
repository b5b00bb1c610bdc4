# SPDX-License-Identifier: Apache-2.0
"""Training of PatchCore: features of good images, a coreset of them, and calibration on held-out images."""

from collections.abc import Callable, Sequence

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
)
from blemish_core.detectors.common.split import held_out_count
from blemish_core.detectors.patchcore.settings import MIN_IMAGES, PatchCoreSettings
from blemish_core.detectors.patchcore.training.coreset import greedy_coreset
from blemish_core.detectors.patchcore.training.features import (
    BATCH,
    COPIES,
    TrainingFeatures,
    allocate_like,
    bank_size,
    extract_features,
)
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.detectors.patchcore.training.whitening import Whitening
from blemish_core.platform.errors import FailedPrecondition

_CROSS_CALIBRATE_BELOW = 20  # images; fewer are too few to hold some out
_FOLDS = 5
_WHITENING_IMAGES = 64  # tens of thousands of patches, of held-out images first
_POSITION_IMAGES = 32  # each is measured against the whole bank
_GPU_SPARE_BYTES = 2 << 30  # for the blocks of a coreset


def train(
    settings: PatchCoreSettings, images: Sequence[ReadImage], context: TrainingContext
) -> TrainingResult:
    """Train on good images and calibrate on images held out of them.

    With 20 images or more a fifth is held out, or as many as the target false-reject rate needs, but at
    most a third. With fewer images each is scored by a detector trained on the others (cross-calibration),
    and the published detector is trained on all of them.

    Held-out images guarantee the rate, because no score depends on them. Cross-calibration guarantees it
    for no distribution (Barber et al., arXiv:1905.02928, on the jackknife). It errs on the safe side,
    because detectors trained on more images score new ones lower. bench_calibration measures the rates.

    Raises:
        FailedPrecondition: with fewer than 2 images, if all are identical, or if the backbone's weights are
            not available.
        TooLarge: if the features or the memory bank exceed the limits of the context.
        DiskFull: if the disk for the features is full.
    """
    if len(images) < MIN_IMAGES:
        raise FailedPrecondition(
            f"PatchCore needs at least {MIN_IMAGES} good images, but the dataset has {len(images)} in "
            "train/good; upload more"
        )
    detector = TrainablePatchCore(settings, context.device)
    detector.mask = context.mask
    detector.load_pretrained(context.weights)
    random = np.random.default_rng(context.seed)
    order = random.permutation(len(images))
    if len(images) < _CROSS_CALIBRATE_BELOW:
        method, held_out = "cross-calibration", order[:0]
        extracted = extract_features(detector, images, context)
        predictions = _cross_calibrate(detector, extracted, order, random, context)
        _fit(detector, extracted, 0, random, context)
    else:
        method = "held out"
        held_out = order[: held_out_count(len(images), context.target_false_reject_rate)]
        # Held-out images come first, so that the features to train on are a view rather than a copy.
        extracted = extract_features(
            detector, [images[number] for number in order], context, held_out=len(held_out)
        )
        _fit(detector, extracted, len(held_out), random, context)
        predictions = _predict_held_out(
            detector,
            extracted.features[: len(held_out)],
            extracted.grid,
            lambda done: context.progress("calibration", done, len(held_out), "images"),
        )
    scores = tuple(prediction.score for prediction in predictions)
    if not max(scores) > 0:
        raise FailedPrecondition(
            f"the {len(images)} good images are identical, so their variation cannot be measured; upload "
            "images of several pieces"
        )
    detector.measure_score_scale(scores)
    if not settings.whitened:
        detector.measure_embedding_whitening(extracted.features[:_WHITENING_IMAGES])
    maxima = tuple(float(prediction.anomaly_map.max()) for prediction in predictions)
    facts = {"features by": extracted.runtime}
    if settings.whitened:
        facts["weighed by"] = f"{COPIES} copies altered, {COPIES} disturbed"
    return TrainingResult(
        detector,
        HeldOutScores(scores, maxima),
        len(images) - len(held_out),
        method,
        facts,
        tuple(held_out.tolist()),
    )


def _fit(
    detector: TrainablePatchCore,
    extracted: TrainingFeatures,
    held_out: int,
    random: np.random.Generator,
    context: TrainingContext,
) -> None:
    """Whiten all features in place, and build the bank from all but the first ``held_out`` images."""
    if detector.settings["whitened"]:
        whitening = Whitening.fit(extracted.features, extracted.changes, without=range(held_out))
        whitening.apply(extracted.features, out=extracted.features)
        detector.set_whitening(whitening.matrix, whitening.shift, whitening.leveling)
    features = extracted.features[held_out:]
    keep = bank_size(detector, *features.shape[:2])
    picks = _coreset(
        features,
        keep,
        random,
        context.device,
        lambda picked: context.progress("coreset", picked, keep, "patches"),
    )
    detector.set_memory_bank(features.flatten(0, 1)[picks])
    detector.find_supports(lambda done: context.progress("supports", done, keep, "entries"))
    measured = min(len(features), _POSITION_IMAGES)
    _measure_positions(
        detector,
        features,
        extracted.grid,
        range(len(features)),
        picks,
        lambda done: context.progress("places", done, measured, "images"),
    )


def _measure_positions(
    detector: TrainablePatchCore,
    features: Tensor,
    grid: tuple[int, int],
    images: Sequence[int],
    picks: Tensor,
    on_images: Callable[[int], None],
) -> None:
    """Measure the expected distances on ``images`` of features (N, P, D), or on a sample of them."""
    if not detector.settings["whitened"]:
        return
    chosen = np.linspace(0, len(images) - 1, min(len(images), _POSITION_IMAGES)).round().astype(int)
    owners = picks // features.shape[1]
    detector.measure_expected_distances(
        features, grid, [images[each] for each in chosen], owners, on_images
    )


def _cross_calibrate(
    detector: TrainablePatchCore,
    extracted: TrainingFeatures,
    order: NDArray[np.int64],
    random: np.random.Generator,
    context: TrainingContext,
) -> list[Prediction]:
    """Score the features of each image by a bank of other images."""
    features, grid = extracted.features, extracted.grid
    predictions: list[Prediction] = []
    whitened = detector.settings["whitened"]
    own = allocate_like(features, "the whitened features", context) if whitened else features

    def score(fold: NDArray[np.int64], before: int) -> list[Prediction]:
        if whitened:
            # The whitening must not depend on the images to score either.
            Whitening.fit(features, extracted.changes, without=fold).apply(features, out=own)

        def report(done: int) -> None:
            context.progress("calibration", before + done, len(order), "images")

        keep = bank_size(detector, len(features) - len(fold), features.shape[1])
        # Called without counting, so that a cancellation takes effect.
        picks = _coreset(own, keep, random, context.device, lambda _: report(0), without=fold)
        detector.set_memory_bank(own.flatten(0, 1)[picks])
        others = np.setdiff1d(order, fold).tolist()
        _measure_positions(detector, own, grid, others, picks, lambda _: report(0))
        return _predict_held_out(detector, own[fold], grid, report)

    for fold in np.array_split(order, min(len(order), _FOLDS)):
        predictions += score(fold, len(predictions))
    return predictions


def _coreset(
    features: Tensor,
    keep: int,
    random: np.random.Generator,
    device: str,
    on_picks: Callable[[int], None],
    *,
    without: Sequence[int] | NDArray[np.int64] = (),
) -> Tensor:
    """Return the numbers (keep,) of the patches to keep of features (N, P, D), ``without`` some images."""
    on_picks(0)
    count, per_image = features.shape[:2]
    patches = features.flatten(0, 1)
    excluded = torch.zeros(count, dtype=torch.bool)
    excluded[torch.as_tensor(without, dtype=torch.long)] = True
    others = torch.nonzero(~excluded)[:, 0]
    start = int(random.integers(len(others) * per_image))
    first = int(others[start // per_image]) * per_image + start % per_image
    with torch.inference_mode():
        points = patches.to(device) if fits_on_device(patches, device) else patches
        picks = greedy_coreset(
            points,
            keep,
            first,
            excluded=excluded.repeat_interleave(per_image),
            device=device,
            on_picks=on_picks,
        )
        return torch.tensor(picks)


def fits_on_device(patches: Tensor, device: str) -> bool:
    """Return True if a GPU has memory for all patches and the work; else they are copied in blocks."""
    if torch.device(device).type != "cuda":
        return False
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return patches.nbytes + _GPU_SPARE_BYTES < free_bytes


def _predict_held_out(
    detector: TrainablePatchCore,
    features: Tensor,
    grid: tuple[int, int],
    on_images: Callable[[int], None],
) -> list[Prediction]:
    """Score held-out features (N, P, D), whose spread becomes the unit of distance."""
    detector.measure_spread(features[:BATCH])  # thousands of patches are enough
    predictions: list[Prediction] = []
    with torch.inference_mode():
        for start in range(0, len(features), BATCH):
            on_images(start)
            predictions += detector.predict_from_features(features[start : start + BATCH], grid)
    on_images(len(predictions))
    return predictions
