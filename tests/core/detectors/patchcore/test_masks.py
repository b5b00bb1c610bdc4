# SPDX-License-Identifier: Apache-2.0
"""PatchCore with a mask."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from blemish_core.detectors.base import Detector, Image, TrainingContext, TrainingResult, silent
from blemish_core.detectors.patchcore.detector import PatchCore
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.train import train
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.imaging.image_input import Region
from blemish_core.platform.errors import InvalidImage

IGNORED = 32
"""Ignored columns of the images of 96 px."""


def stripes(seed: int, *, left: int = 0, spot: int | None = None) -> Image:
    """Return stripes with noise, other pixels in the ignored ``left`` columns, and a spot at a column."""
    random = np.random.default_rng(seed)
    wave = 120 + 60 * np.sin(np.arange(96) / 4 + random.uniform(0, 6))
    image = np.repeat(wave[None, :], 96, axis=0) + random.normal(0, 4, (96, 96))
    if spot is not None:
        image[40:60, spot : spot + 20] = random.uniform(0, 255, (20, 20))
    if left:
        image[:, :left] = random.uniform(0, 255, (96, left))
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def right_part() -> FrameMask:
    looks = np.ones((96, 96), np.bool_)
    looks[:, :IGNORED] = False
    return FrameMask(looks)


def learn(
    drawn: Callable[[int], Image], mask: FrameMask | None, images: int = 12, max_bytes: int = 1 << 30
) -> TrainingResult:
    context = TrainingContext(Path("nowhere"), 0, 0.05, silent, max_feature_bytes=max_bytes, mask=mask)
    settings = PatchCoreSettings(input_size=64, coreset_ratio=0.25)
    return train(settings, [partial(drawn, number) for number in range(images)], context)


@pytest.fixture(scope="module")
def masked() -> Detector:
    return learn(stripes, right_part()).detector


@pytest.mark.parametrize("max_bytes", [1 << 30, 1], ids=["cross-calibration", "held out"])
def test_ignored_pixels_influence_no_training(max_bytes: int) -> None:
    plain = learn(stripes, right_part(), 60, max_bytes)
    other = learn(partial(stripes, left=IGNORED), right_part(), 60, max_bytes)
    assert plain.held_out_scores == other.held_out_scores
    tensors = other.detector.tensors()
    for name, tensor in plain.detector.tensors().items():
        assert torch.equal(tensor, tensors[name]), name


def test_bank_holds_only_patches_that_the_model_looks_at(masked: Detector) -> None:
    # The mask ignores two of the 8 columns of patches, and two thirds of a third one.
    assert len(masked.tensors()["memory_bank"]) == 12 * 8 * 5 // 4


def test_ignored_pixels_influence_no_prediction(masked: Detector) -> None:
    first, second, third = masked.predict(
        [masked.prepare(image) for image in (stripes(90), stripes(90, left=IGNORED), stripes(90, spot=8))]
    )
    assert first.score == second.score
    np.testing.assert_array_equal(first.anomaly_map, second.anomaly_map)
    np.testing.assert_array_equal(first.embedding, second.embedding)
    assert first.score == third.score


def test_map_is_lowest_where_the_model_does_not_look(masked: Detector) -> None:
    (prediction,) = masked.predict([masked.prepare(stripes(90, spot=50))])
    pixels = prediction.anomaly_map
    border = round(IGNORED * pixels.shape[1] / 96)
    assert (pixels[:, : border - 1] == pixels.min()).all()
    row, column = np.unravel_index(pixels.argmax(), pixels.shape)
    assert 40 <= row * 96 / pixels.shape[0] < 60
    assert 50 <= column * 96 / pixels.shape[1] < 70
    good = masked.predict([masked.prepare(stripes(90))])[0]
    assert prediction.score > 1.5 * good.score


def test_defect_next_to_the_border_is_found(masked: Detector) -> None:
    good, defective = masked.predict(
        [masked.prepare(image) for image in (stripes(90), stripes(90, spot=IGNORED))]
    )
    assert defective.score > 1.5 * good.score


def test_patch_features_of_ignored_pixels_are_similar_to_nothing(masked: Detector) -> None:
    (patches,) = masked.predict_with_patches([masked.prepare(stripes(90))])
    rows, columns, _ = patches.deviations.shape
    assert (rows, columns) == patches.anomaly.shape
    ignored = columns * IGNORED // 96
    assert (patches.deviations[:, :ignored] == 0).all()
    assert (patches.anomaly[:, :ignored] == patches.anomaly.min()).all()
    assert (np.linalg.norm(patches.deviations[:, ignored + 1 :], axis=2) > 0).all()


def test_region_is_scored_with_its_part_of_the_mask(masked: Detector) -> None:
    region = Region(16, 0, 80, 96)
    first, second = (
        masked.predict([masked.prepare(image, region)])[0]
        for image in (stripes(90), stripes(90, left=IGNORED))
    )
    assert first.score == second.score
    with pytest.raises(InvalidImage, match="ignores the whole region"):
        masked.prepare(stripes(90), Region(0, 0, 24, 24))


def test_loaded_detector_with_the_mask_gives_the_same_scores(masked: Detector) -> None:
    loaded = PatchCore.load(masked.settings, masked.tensors())
    loaded.mask = masked.mask
    image = stripes(91, spot=60)
    ours, its = (each.predict([each.prepare(image)])[0] for each in (masked, loaded))
    assert ours.score == pytest.approx(its.score, rel=1e-6)
