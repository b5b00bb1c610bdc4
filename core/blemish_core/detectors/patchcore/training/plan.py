# SPDX-License-Identifier: Apache-2.0
"""The choice of a model's scale, and its cost, before a training begins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import median
from typing import TypeVar

from blemish_core.detectors.base import ReadImage
from blemish_core.detectors.common.backbone import can_look_up
from blemish_core.detectors.patchcore.settings import DEFAULT_INPUT_SIZE, PatchCoreSettings
from blemish_core.imaging.geometry import (
    MAX_PIXELS,
    Scale,
    Size,
    pixels_of,
    scale_for_defect,
    scale_for_side,
)
from blemish_core.platform.errors import InvalidImage, InvalidRequest

_Each = TypeVar("_Each")

MOST_PATCHES = 100_000
"""Patches that a coreset is selected from; of more, each image contributes an equal number at random."""
CROSS_CALIBRATE_BELOW = 500
"""Pieces below which no image is held out; a fifth of more suffices, and takes less memory."""
# Shares of all products of patches and bank entries that are computed, as measured on real images.
_CORESET_SHARE, _SEARCH_SHARE = 0.6, 0.25
_MEASURED_IMAGES = 9
_MINUTES_FROM_S = 120.0
_MOST_ENLARGED = 2.0
_MOST_ENLARGED_PIXELS = 2 * DEFAULT_INPUT_SIZE**2


@dataclass(frozen=True)
class BankWork:
    """The work of a training on its memory banks."""

    entries: int
    """Size of the published bank."""
    pairs: float
    """Pairs of a patch and an entry whose product is computed, in coresets and in searches."""

    @classmethod
    def of(
        cls, settings: PatchCoreSettings, patches: int, *, learned: int, scored: int, banks: int
    ) -> "BankWork":
        """Estimate the work.

        Args:
            settings: settings of the training.
            patches: number of patches of one image.
            learned: number of images in the published bank.
            scored: number of images that calibrate the threshold.
            banks: number of banks, the published one and those of cross-calibration.
        """
        sampled = min(patches * learned, MOST_PATCHES)
        entries = bank_size(settings, sampled)
        compared = _CORESET_SHARE * banks * sampled + _SEARCH_SHARE * scored * patches
        return cls(entries, entries * compared)


def bank_size(settings: PatchCoreSettings, patches: int) -> int:
    """Return how many of all patches the memory bank keeps.

    The bank has at least as many entries as weight an image score. The weight depends on their number, so
    cross-calibration with fewer would measure on another scale.
    """
    kept = min(int(patches * settings.coreset_ratio), settings.max_entries)
    return max(min(settings.neighbors, patches), kept, 1)


@dataclass(frozen=True)
class ScalePlan:
    """The scale of a training and its cost."""

    settings: PatchCoreSettings
    """Settings with the scale that was chosen."""
    frame: Size
    """Median size of the training images, px."""
    input: Size
    """Size of their inputs, px."""
    reason: str
    """Origin of the scale, for people."""

    def describe(self, network_ms: float, training_s: float) -> str:
        """Return a sentence about the plan.

        Args:
            network_ms: time of the network for one frame.
            training_s: time that the training will take, without what follows it in the job.
        """
        (height, width), (rows, columns) = self.frame, self.input
        seconds = max(1, round(training_s))
        takes = f"{seconds} s" if training_s < _MINUTES_FROM_S else f"{training_s / 60:.0f} min"
        return (
            f"scale {self.settings.scale:.3g}, chosen by {self.reason}: frames of {width} x {height} px "
            f"become inputs of {columns} x {rows} px with {self.patches} patches; the network takes "
            f"{network_ms:.0f} ms a frame; the memory bank has at most {self.settings.max_entries} "
            f"entries; the training takes about {takes}, without evaluation and export"
        )

    @property
    def patches(self) -> int:
        """Number of patches of one frame."""
        return pixels_of(self.input) // self.settings.extractor().stride ** 2


def plan(settings: PatchCoreSettings, images: Sequence[ReadImage]) -> ScalePlan:
    """Choose the scale of a training from its settings and the sizes of its images.

    Raises:
        InvalidRequest: if the smallest defect does not fit the images, or they are too large at the scale.
    """
    sizes = [(pixels.shape[0], pixels.shape[1]) for pixels in (read() for read in _measured(images))]
    return _plan(settings, sizes)


def plan_for_sizes(settings: PatchCoreSettings, sizes: Sequence[Size]) -> ScalePlan:
    """Return what ``plan`` returns for images of these sizes in px, before they are read.

    Raises:
        InvalidRequest: if the smallest defect does not fit the images, or they are too large at the scale.
    """
    return _plan(settings, _measured(sizes))


def _measured(images: Sequence[_Each]) -> Sequence[_Each]:
    """Return the images, or what is known of them, from which a plan takes the size."""
    return images[:: -(-len(images) // _MEASURED_IMAGES)]


def _plan(settings: PatchCoreSettings, sizes: Sequence[Size]) -> ScalePlan:
    frame = int(median(size[0] for size in sizes)), int(median(size[1] for size in sizes))
    scale, reason = _scale(settings, frame, sizes)
    try:
        size = scale.input_size(frame)
    except InvalidImage as error:
        raise InvalidRequest(
            f"images of {frame[1]} x {frame[0]} px exceed {MAX_PIXELS >> 20} megapixels at scale "
            f"{scale.factor:.3g}, chosen by {reason}; give a larger smallest_defect or a smaller "
            "input_size, or split the images",
            field="patchcore",
        ) from error
    backbone = settings.extractor() if can_look_up(settings.backbone) else None
    chosen = replace(
        settings,
        normalization=(backbone.mean, backbone.std) if backbone is not None else None,
        scale=scale.factor,
        input_size=min(size),
        frame=frame if len(set(sizes)) == 1 else None,
    )
    return ScalePlan(chosen, frame, size, reason)


def _scale(settings: PatchCoreSettings, frame: Size, sizes: Sequence[Size]) -> tuple[Scale, str]:
    if settings.smallest_defect is not None:
        return scale_for_defect(settings.smallest_defect, frame), (
            f"a defect of {settings.smallest_defect:g} px"
        )
    if settings.input_size is not None:
        return scale_for_side(settings.input_size, sizes), "the requested input size"
    return Scale(_automatic_factor(frame)), "the size of the images"


def _automatic_factor(frame: Size) -> float:
    """Return the factor that gives frames the default input size.

    Small images are enlarged a little, and long ones not at all: it would cost time and show nothing new.
    """
    factor = min(DEFAULT_INPUT_SIZE / min(frame), _MOST_ENLARGED)
    if factor <= 1:
        return factor
    return max(1.0, min(factor, sqrt(_MOST_ENLARGED_PIXELS / pixels_of(frame))))
