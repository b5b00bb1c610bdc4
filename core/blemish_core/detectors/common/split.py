# SPDX-License-Identifier: Apache-2.0
"""The split of good images into training and held-out images."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from blemish_core.detectors.base import Image, ReadImage, TrainingContext
from blemish_core.detectors.common.copies import find_copies
from blemish_core.detectors.common.split_sizes import FOLDS, held_out_count
from blemish_core.imaging.frame_mask import visible

_LEAST_PIECES = 2


@dataclass(frozen=True)
class Fold:
    """A part of cross-calibration: images that a detector is not trained on."""

    excluded: NDArray[np.int64]
    """Indices of all images of the fold's pieces."""
    scored: NDArray[np.int64]
    """Index of one image of each of these pieces."""


@dataclass(frozen=True)
class Split:
    """The use of each good image; all images of a piece are used alike."""

    held_out: NDArray[np.int64]
    """Indices of the images to score, one of each held-out piece; empty with cross-calibration."""
    learned: NDArray[np.int64]
    """Indices of the images to train on."""
    folds: tuple[Fold, ...] = ()
    """Folds of cross-calibration; empty if images are held out."""
    copies: tuple[tuple[int, ...], ...] = ()
    """Groups of images that show one piece, as ascending indices."""

    @property
    def scored(self) -> int:
        """Number of images whose scores calibrate the threshold."""
        return len(self.held_out) + sum(len(fold.scored) for fold in self.folds)

    @property
    def scored_indices(self) -> tuple[int, ...]:
        """Indices of these images, those of the first fold first."""
        folds = [fold.scored for fold in self.folds]
        return tuple(int(number) for number in np.concatenate([self.held_out, *folds]))

    def validation(self, images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the learned images as two parts, at least ``images`` for validation and the rest.

        Images of one piece are in one part, which may need more images for validation.
        """
        piece_of = {number: piece for piece, group in enumerate(self.copies) for number in group}
        pieces = [piece_of.get(int(number), -1) for number in self.learned]
        end = images
        while 0 < end < len(pieces) and pieces[end] >= 0 and pieces[end] == pieces[end - 1]:
            end += 1
        return self.learned[:end], self.learned[end:]


def split_images(
    images: Sequence[ReadImage],
    random: np.random.Generator,
    context: TrainingContext,
    *,
    cross_calibrate_below: int = 0,
) -> Split:
    """Split good images at random, so that all images of one piece are held out or trained on.

    An image of a piece that was trained on scores lower than one of another piece, so it would make the
    threshold too low. Several images of one held-out piece would make the calibration look larger than it
    is, so one image of each is scored. It is chosen at random, which keeps pieces exchangeable. See Dunn et
    al., "Distribution-Free Prediction Sets for Two-Layer Hierarchical Models", JASA 2022.

    Args:
        images: readers of the images.
        random: generator of the order.
        context: target rate and callbacks of the training.
        cross_calibrate_below: number of pieces below which none is held out.
    """
    order = random.permutation(len(images))
    copies = find_copies([partial(_seen, read, context) for read in images], context.progress)
    if len(images) - sum(map(len, copies)) + len(copies) < _LEAST_PIECES:
        context.warn(
            f"all {len(images)} good images seem to show the same piece, so the threshold may be too low "
            "for other pieces; upload images of several pieces"
        )
        copies = ()
    pieces = _pieces(order, copies, random)
    if len(pieces) < cross_calibrate_below:
        parts = np.array_split(np.arange(len(pieces)), min(len(pieces), FOLDS))
        folds = tuple(_fold([pieces[number] for number in part]) for part in parts)
        return Split(order[:0], order, folds, copies)
    held_out = held_out_count(len(pieces), context.target_false_reject_rate)
    return Split(_fold(pieces[:held_out]).scored, _fold(pieces[held_out:]).excluded, copies=copies)


def _seen(read: ReadImage, context: TrainingContext) -> Image:
    """Return an image without the content of ignored pixels, which must not decide the split."""
    return visible(read(), context.mask)


def _pieces(
    order: NDArray[np.int64], copies: Sequence[Sequence[int]], random: np.random.Generator
) -> list[list[int]]:
    """Return the images of each piece in random order, one chosen at random first."""
    chosen = {int(random.choice(group)): group for group in copies}
    further = {number for group in copies for number in group} - chosen.keys()
    return [
        [number, *(other for other in chosen.get(number, ()) if other != number)]
        for number in order.tolist()
        if number not in further
    ]


def _fold(pieces: Sequence[Sequence[int]]) -> Fold:
    return Fold(
        excluded=np.array([number for piece in pieces for number in piece], np.int64),
        scored=np.array([piece[0] for piece in pieces], np.int64),
    )
