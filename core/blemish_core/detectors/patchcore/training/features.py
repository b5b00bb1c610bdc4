# SPDX-License-Identifier: Apache-2.0
"""Patches of the training images."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from blemish_core.detectors.base import ReadImage, TrainingContext
from blemish_core.detectors.patchcore.detector import Patches
from blemish_core.detectors.patchcore.training.plan import MOST_PATCHES
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.platform.errors import TooLarge

BATCH = 8


def patches_of(
    detector: TrainablePatchCore, images: Sequence[ReadImage], context: TrainingContext, phase: str
) -> Iterator[Patches]:
    """Yield the patches of each image, and report the progress of a phase."""
    done = 0
    for batch in _batches(images):
        context.progress(phase, done, len(images), "images")
        with torch.inference_mode():
            found = detector.patches([detector.prepare(read()) for read in batch])
        done += len(found)
        yield from found
    context.progress(phase, done, len(images), "images")


def sample_patches(
    detector: TrainablePatchCore,
    images: Sequence[ReadImage],
    context: TrainingContext,
    random: np.random.Generator,
) -> Tensor:
    """Return patches (N, D) of the images on the CPU: all, or ``MOST_PATCHES`` at random."""
    found = (patches.features for patches in patches_of(detector, images, context, "features"))
    return sample(found, len(images), random)


def sample(features: Iterable[Tensor], images: int, random: np.random.Generator) -> Tensor:
    """Return patches (N, D) on the CPU of all patches (P, D) of each image, or ``MOST_PATCHES`` of them."""
    quota = MOST_PATCHES // images
    return torch.cat([_some(each, quota, random).cpu() for each in features])


def all_patches(
    detector: TrainablePatchCore, images: Sequence[ReadImage], context: TrainingContext
) -> list[Patches]:
    """Return the patches of each image.

    Raises:
        TooLarge: if they exceed the memory limit of the context.
    """
    found: list[Patches] = []
    for patches in patches_of(detector, images, context, "features"):
        if not found:
            # The first image gives the size, so excessive ones are rejected early.
            _check_memory(len(images) * patches.features.nbytes, len(images), context)
        found.append(patches)
    return found


def _some(patches: Tensor, count: int, random: np.random.Generator) -> Tensor:
    if len(patches) <= count:
        return patches
    return patches[torch.from_numpy(np.sort(random.permutation(len(patches))[:count]))]


def _batches(images: Sequence[ReadImage]) -> Iterator[Sequence[ReadImage]]:
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH]


def _check_memory(needed: int, images: int, context: TrainingContext) -> None:
    if needed > context.max_feature_bytes:
        raise TooLarge(
            f"the features of {images} images need {needed >> 20} MiB, but BLEMISH_MAX_FEATURE_BYTES "
            f"allows {context.max_feature_bytes >> 20} MiB; train at a smaller scale, or raise the setting"
        )
