# SPDX-License-Identifier: Apache-2.0
"""Features of the training images, and how altered copies of the images change them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from blemish_core.detectors.base import ReadImage, TrainingContext, running_on
from blemish_core.detectors.common.scratch import allocate
from blemish_core.detectors.patchcore.training.synthetic import alter, disturb
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.detectors.patchcore.training.whitening import PatchChanges
from blemish_core.platform.errors import TooLarge

COPIES = 64
"""Altered copies, and disturbed ones. More copies gave no better weights."""
BATCH = 8
# Most patches of each copy, so that a large alteration does not outweigh a small one.
_ALTERED_PATCHES, _DISTURBED_PATCHES = 16, 64


@dataclass(frozen=True)
class TrainingFeatures:
    """Features of N training images and how copies of the images change them."""

    features: Tensor
    """(N, P, D), in memory or in a mapped file."""
    grid: tuple[int, int]
    """Rows and columns of the P patches."""
    changes: list[PatchChanges]
    """One per image."""
    runtime: str
    """Name of the runtime that computed the features."""


def extract_features(
    detector: TrainablePatchCore,
    images: Sequence[ReadImage],
    context: TrainingContext,
    *,
    held_out: int = 0,
) -> TrainingFeatures:
    """Return features of all images, and changes of all but the first ``held_out``.

    Raises:
        TooLarge: if the features or the memory bank exceed the limits of the context.
        DiskFull: if the disk for the features is full.
    """
    features: Tensor | None = None
    grid = (0, 0)
    context.progress("features", 0, len(images), "images")  # converting the network takes seconds
    fast = context.fast_runtime(detector.network, detector.input_size)
    with torch.inference_mode(), running_on(detector, fast):
        for start in range(0, len(images), BATCH):
            context.progress("features", start, len(images), "images")
            batch = [detector.prepare(read()) for read in images[start : start + BATCH]]
            patches, grid = detector.features(batch)
            if features is None:
                # The first batch gives the shape, so excessive sizes are rejected early.
                features = _allocate_features(
                    detector, len(images), patches.shape[1], patches.shape[2], context
                )
            features[start : start + len(batch)] = patches
        context.progress("features", len(images), len(images), "images")
        assert features is not None
        none = features.new_empty(0, features.shape[2])
        changes = [PatchChanges(none, none)] * len(images)
        if detector.settings["whitened"]:
            changes[held_out:] = measure_changes(
                detector,
                images[held_out:],
                features[held_out:],
                context.seed,
                lambda done: context.progress("alterations", done, COPIES, "images"),
            )
        return TrainingFeatures(features, grid, changes, detector.runtime.name)


def measure_changes(
    detector: TrainablePatchCore,
    images: Sequence[ReadImage],
    features: Tensor,
    seed: int,
    on_copies: Callable[[int], None] = lambda done: None,
) -> list[PatchChanges]:
    """Return how the patches of images change in altered and in disturbed copies.

    Args:
        detector: detector whose features are not whitened yet.
        images: originals of the copies.
        features: (N, P, D), features of the images.
        seed: seed of the copies.
        on_copies: called with the number of copies done so far.

    Returns:
        One item per image. With many images some have no changes, with few each has several copies.
    """
    anomalous, harmless = ([[features.new_empty(0, features.shape[2])] for _ in images] for _ in range(2))
    numbers = np.linspace(0, len(images), COPIES, endpoint=False).astype(int).tolist()
    for start in range(0, COPIES, BATCH):
        on_copies(start)
        chosen = numbers[start : start + BATCH]
        inputs = {number: detector.prepare(images[number]()) for number in set(chosen)}
        originals = [detector.preprocessing.pixels(inputs[number]) for number in chosen]
        for copy_of, most, changes in (
            (alter, _ALTERED_PATCHES, anomalous),
            (disturb, _DISTURBED_PATCHES, harmless),
        ):
            # A generator per copy, so that the copies of one image do not depend on the other images.
            random = [np.random.default_rng((seed, start + index)) for index in range(len(chosen))]
            copies = [copy_of(original, each) for original, each in zip(originals, random, strict=True)]
            patches, grid = detector.features(
                [detector.preprocessing.normalized(copy) for copy, _ in copies]
            )
            for number, changed, (_, mask), each in zip(chosen, patches, copies, random, strict=True):
                touched = functional.adaptive_max_pool2d(mask[None].float(), grid).flatten()
                picked = each.permutation(torch.nonzero(touched)[:, 0])[:most]
                changes[number].append(changed[picked].to(features.device) - features[number, picked])
    on_copies(COPIES)
    return [
        PatchChanges(torch.cat(one), torch.cat(other))
        for one, other in zip(anomalous, harmless, strict=True)
    ]


def allocate_like(features: Tensor, name: str, context: TrainingContext) -> Tensor:
    """Return an uninitialised tensor of the shape of ``features`` within the limits of the context."""
    return _allocate(tuple(features.shape), name, context)


def bank_size(detector: TrainablePatchCore, images: int, patches: int) -> int:
    """Return how many patches of all images the memory bank keeps.

    The bank has at least as many entries as weight an image score. The weight depends on their number, so
    cross-calibration with fewer would measure on another scale.
    """
    settings, count = detector.settings, images * patches
    neighbors: int = settings["neighbors"]
    return max(min(neighbors, count), int(count * settings["coreset_ratio"]))


def _allocate_features(
    detector: TrainablePatchCore, images: int, patches: int, dimensions: int, context: TrainingContext
) -> Tensor:
    features = _allocate((images, patches, dimensions), f"the features of {images} images", context)
    bank_bytes = bank_size(detector, images, patches) * dimensions * features.element_size()
    if bank_bytes > context.max_feature_bytes:
        raise TooLarge(
            f"the memory bank of {images} images would need {bank_bytes >> 20} MiB, but "
            f"BLEMISH_MAX_FEATURE_BYTES allows {context.max_feature_bytes >> 20} MiB; lower coreset_ratio, "
            "train on fewer images, or raise the setting"
        )
    return features


def _allocate(shape: tuple[int, ...], name: str, context: TrainingContext) -> Tensor:
    return allocate(
        shape,
        name,
        memory_bytes=context.max_feature_bytes,
        folder=context.scratch,
        disk_bytes=context.max_scratch_bytes,
    )
