# SPDX-License-Identifier: Apache-2.0
"""How PatchCore learns: features of good images, a coreset of them, some held out to calibrate by."""

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blemish_core.calibration import images_needed
from blemish_core.detectors import backbone as backbones
from blemish_core.detectors.backbone import Backbone
from blemish_core.detectors.coreset import greedy_coreset
from blemish_core.detectors.detector import Held, Outcome, Progress, ReadImage, Terms, Training
from blemish_core.detectors.patchcore import PatchCore, PatchCoreSettings
from blemish_core.errors import NotPossibleYet, TooLarge

MIN_IMAGES = 2  # one to learn, one to hold out
_HELD_OUT = 0.2
_CROSS_BELOW = 20  # fewer images than this are too few to spare any for calibration alone
_FOLDS = 5
_BATCH = 8


def train(settings: PatchCoreSettings, images: Sequence[ReadImage], terms: Terms) -> Training:
    """Learn from good images, of which some are held out to calibrate by.

    With 20 images or more, a fifth or as many as the target false-reject rate needs (at most a third) are
    held out. With fewer each is scored by a detector that learned from the others (cross-calibration), and
    the one that is kept learned from all.

    What is held out warrants its rate exactly: no score depends on it. Cross-calibration warrants nothing
    for every distribution (see Barber et al., arXiv:1905.02928, on the jackknife); it errs to the safe side
    as far as a detector that learned from more images scores new ones lower. On the synthetic surfaces, 20
    trainings each, it rejected 12.1 % of unseen good images where 4 images would warrant 20 %, 5.5 % where
    8 would warrant 11.1 %, 5.0 % where 12 would warrant 7.7 %, 3.5 % where 19 would warrant 5 %, on average
    (``tests/benchmarks/bench_calibration.py --size 64``); single trainings up to 83 %, 38 %, 22 % and 25 %.

    Raises:
        NotPossibleYet: with fewer than 2 images, or if the backbone's weights cannot be had.
        TooLarge: if the features would need more than ``terms.max_feature_bytes``.
    """
    if len(images) < MIN_IMAGES:
        raise NotPossibleYet(
            f"PatchCore learns from at least {MIN_IMAGES} good images, but the dataset has "
            f"{len(images)} in train/good; upload more"
        )
    progress = terms.progress
    backbone = Backbone.named(settings.backbone)
    detector = PatchCore(settings, backbone, terms.device)
    detector.load_backbone(backbones.pretrained(backbone, terms.weights))
    features, grid = _all_features(detector, images, terms.max_feature_bytes, progress)  # (N, P, D)

    random = np.random.default_rng(terms.seed)
    order = random.permutation(len(images))
    held_out = order[:0]
    if len(images) < _CROSS_BELOW:
        method, learned = "cross-calibration", order
        outcomes = _cross_calibrated(detector, features, grid, order, random, progress)
        _learn(detector, features, random, progress)
    else:
        method = "held out"
        needed = max(ceil(_HELD_OUT * len(images)), images_needed(terms.target_false_reject_rate))
        held_out, learned = np.split(order, [min(needed, len(images) // 3)])
        _learn(detector, features[learned], random, progress)
        outcomes = _held_outcomes(
            detector,
            features[held_out],
            grid,
            lambda done: progress("calibration", done, len(held_out), "images"),
        )
    scores = tuple(outcome.score for outcome in outcomes)
    detector.measure_scores(scores)
    held = Held(
        scores,
        tuple(float(outcome.anomaly_map.max()) for outcome in outcomes),
    )
    return Training(detector, held, len(learned), method, held_out=tuple(held_out.tolist()))


def _learn(detector: PatchCore, features: Tensor, random: np.random.Generator, progress: Progress) -> None:
    """Have the detector remember the coreset of features (N, P, D)."""
    keep = _bank_size(detector, features)
    detector.remember(
        _coreset(features, keep, random, lambda picked: progress("coreset", picked, keep, "patches"))
    )


def _cross_calibrated(
    detector: PatchCore,
    features: Tensor,
    grid: tuple[int, int],
    order: NDArray[np.int64],
    random: np.random.Generator,
    progress: Progress,
) -> list[Outcome]:
    """Score features (N, P, D) of each image by a bank of images other than it."""
    outcomes: list[Outcome] = []

    def score(fold: NDArray[np.int64], before: int) -> list[Outcome]:
        def told(done: int) -> None:
            progress("calibration", before + done, len(order), "images")

        others = features[np.setdiff1d(order, fold)]
        # Picks are not counted here, but a cancellation is heard.
        bank = _coreset(others, _bank_size(detector, others), random, lambda _: told(0))
        detector.remember(bank)
        return _held_outcomes(detector, features[fold], grid, told)

    for fold in np.array_split(order, min(len(order), _FOLDS)):
        outcomes += score(fold, len(outcomes))
    return outcomes


def _all_features(
    detector: PatchCore, images: Sequence[ReadImage], max_bytes: int, progress: Progress
) -> tuple[Tensor, tuple[int, int]]:
    """Features (N, P, D) of all images, on the CPU, and the grid of their P patches."""
    parts: list[Tensor] = []
    grid = (0, 0)
    with torch.inference_mode():
        for start in range(0, len(images), _BATCH):
            progress("features", start, len(images), "images")
            batch = [detector.prepare(read()) for read in images[start : start + _BATCH]]
            features, grid = detector.features(batch)
            needed = features[0].numel() * features.element_size() * len(images)
            if needed > max_bytes:
                raise TooLarge(
                    f"the features of {len(images)} images need {needed >> 20} MiB, but "
                    f"BLEMISH_MAX_FEATURE_BYTES allows {max_bytes >> 20} MiB; train on fewer images, "
                    "take a smaller input_size, or raise the setting"
                )
            parts.append(features.cpu())
    progress("features", len(images), len(images), "images")
    return torch.cat(parts), grid


def _bank_size(detector: PatchCore, features: Tensor) -> int:
    """How many of the patches of features (N, P, D) the memory bank keeps."""
    return max(1, int(features.shape[0] * features.shape[1] * detector.settings["coreset_ratio"]))


def _coreset(
    features: Tensor, keep: int, random: np.random.Generator, on_picks: Callable[[int], None]
) -> Tensor:
    """The memory bank (keep, D) of features (N, P, D)."""
    patches = features.flatten(0, 1)
    on_picks(0)
    with torch.inference_mode():
        first = int(random.integers(len(patches)))
        return patches[greedy_coreset(patches, keep, first, on_picks=on_picks)]


def _held_outcomes(
    detector: PatchCore, features: Tensor, grid: tuple[int, int], on_images: Callable[[int], None]
) -> list[Outcome]:
    """Score features (N, P, D) that the detector has not learned; their spread becomes its unit."""
    detector.measure_spread(features[:_BATCH])  # thousands of patches are enough
    outcomes: list[Outcome] = []
    with torch.inference_mode():
        for start in range(0, len(features), _BATCH):
            on_images(start)
            outcomes += detector.outcomes(features[start : start + _BATCH], grid)
    on_images(len(outcomes))
    return outcomes
