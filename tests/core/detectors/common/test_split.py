# SPDX-License-Identifier: Apache-2.0
"""The split of good images: pieces stay together and count once."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from blemish_core.detectors.base import Image, ReadImage, TrainingContext, silent
from blemish_core.detectors.common.split import Split, split_images
from blemish_core.imaging.frame_mask import FrameMask


def surface(piece: int, shot: int = 0) -> Image:
    """Return one of several images of a piece, (96, 96, 3)."""
    texture = np.random.default_rng(piece).normal(128, 40, (24, 24)).repeat(4, 0).repeat(4, 1)
    noise = np.random.default_rng((piece, shot)).normal(0, 3, (96, 96))
    return np.repeat(np.clip(texture + noise, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def shots(pieces: int, each: int) -> list[ReadImage]:
    """Return readers of ``each`` images of every piece, piece by piece."""
    return [partial(surface, piece, shot) for piece in range(pieces) for shot in range(each)]


def split(
    images: list[ReadImage], seed: int = 0, target: float = 0.05, below: int = 0
) -> tuple[Split, list[str]]:
    warnings: list[str] = []
    context = TrainingContext(Path("nowhere"), seed, target, silent, warn=warnings.append)
    random = np.random.default_rng(seed)
    return split_images(images, random, context, cross_calibrate_below=below), warnings


@pytest.mark.parametrize(
    ("images", "target", "held_out"), [(100, 0.05, 20), (60, 0.05, 19), (30, 0.05, 10), (2, 0.05, 1)]
)
def test_images_without_copies_are_held_out_as_often_as_the_target_needs(
    images: int, target: float, held_out: int
) -> None:
    found, warnings = split(shots(images, 1), target=target)
    assert len(found.held_out) == held_out
    assert sorted([*found.held_out, *found.learned]) == list(range(images))
    assert (found.copies, found.folds, warnings) == ((), (), [])


@pytest.mark.parametrize("seed", range(5))
def test_images_of_a_held_out_piece_are_not_trained_on_and_count_once(seed: int) -> None:
    found, _ = split(shots(12, 4), seed)
    held_out = [number // 4 for number in found.held_out]
    learned = {number // 4 for number in found.learned}
    assert len(found.copies) == 12
    assert len(held_out) == len(set(held_out)) == 4  # a third of 12 pieces
    assert not learned & set(held_out)
    assert len(found.learned) == 4 * 8


def test_scored_image_of_a_piece_is_any_of_its_images() -> None:
    drawn = {number % 4 for seed in range(12) for number in split(shots(9, 4), seed)[0].held_out}
    assert drawn == {0, 1, 2, 3}


def test_piece_with_many_images_is_held_out_no_more_often() -> None:
    images = shots(1, 8)
    images += [partial(surface, piece) for piece in range(100, 109)]
    held_out = [any(number < 8 for number in split(images, seed)[0].held_out) for seed in range(40)]
    assert 0.1 < np.mean(held_out) < 0.5  # 3 of 10 pieces are held out


def test_folds_of_cross_calibration_keep_pieces_together() -> None:
    found, _ = split(shots(8, 3), below=20)
    assert len(found.held_out) == 0
    assert sorted(found.learned) == list(range(24))
    assert len(found.folds) == 5
    scored = np.concatenate([fold.scored for fold in found.folds])
    assert sorted(number // 3 for number in scored) == list(range(8))
    for fold in found.folds:
        pieces = {number // 3 for number in fold.scored}
        assert sorted(fold.excluded) == [number for number in range(24) if number // 3 in pieces]


def test_copies_do_not_avoid_cross_calibration() -> None:
    assert split(shots(8, 3), below=20)[0].folds
    assert not split(shots(24, 1), below=20)[0].folds


def test_images_of_one_piece_are_split_with_a_warning() -> None:
    found, warnings = split([partial(surface, 0)] * 12)
    assert found.copies == ()
    assert len(found.held_out) == 4
    assert len(warnings) == 1
    assert "all 12 good images seem to show the same piece" in warnings[0]
    assert "upload images of several pieces" in warnings[0]


@pytest.mark.parametrize("wanted", [1, 5, 7])
def test_validation_images_share_no_piece_with_learned_ones(wanted: int) -> None:
    found, _ = split(shots(12, 4))
    validation, learned = found.validation(wanted)
    assert wanted <= len(validation) < wanted + 4
    assert sorted([*validation, *learned]) == sorted(found.learned)
    assert not {number // 4 for number in validation} & {number // 4 for number in learned}


def test_ignored_pixels_do_not_decide_which_images_are_copies() -> None:
    looks = np.zeros((96, 96), np.bool_)
    looks[:, 40:] = True
    images = [surface(piece) for piece in range(10)]
    images.append(np.where(looks[..., None], images[4], images[5]))
    context = TrainingContext(Path("nowhere"), 0, 0.05, silent, mask=FrameMask(looks))
    reads: list[ReadImage] = [partial(images.__getitem__, number) for number in range(11)]
    assert split_images(reads, np.random.default_rng(0), context).copies == ((4, 10),)
