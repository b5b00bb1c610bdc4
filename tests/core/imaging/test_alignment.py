# SPDX-License-Identifier: Apache-2.0
"""Frames of a part that moves are aligned to a reference."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.support.moving_part import STILL, Frame, seen, texture

from blemish_core.imaging.alignment import Aligner, Motion
from blemish_core.imaging.samples import grey_as_rgb
from blemish_core.platform.errors import FailedPrecondition, InvalidImage

HEIGHT, WIDTH = SHAPE = 240, 320


def aligner(surface: Frame, looks: NDArray[np.bool_] | None = None) -> Aligner:
    if looks is None:
        looks = np.ones(SHAPE, np.bool_)
    return Aligner.of_image(seen(surface, STILL, SHAPE), looks)


def noisy(frame: Frame, seed: int = 1) -> Frame:
    noise = np.random.default_rng(seed).normal(0, 6, frame.shape)
    return (frame * 0.8 + 20 + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("dx", "dy", "angle"),
    [(0, 0, 0), (5.3, -2.6, 0), (-40.7, 30.2, 0), (12.5, 8.5, 4.3), (-22, -14, -8.8), (70, 0, 1)],
)
def test_known_motion_is_recovered(dx: float, dy: float, angle: float) -> None:
    surface = texture(0)
    found = aligner(surface).align(noisy(seen(surface, Motion(dx, dy, angle), SHAPE)))
    assert found.motion is not None
    assert (found.motion.dx_px, found.motion.dy_px) == pytest.approx((dx, dy), abs=0.7)
    assert found.motion.angle_deg == pytest.approx(angle, abs=0.3)
    assert found.quality > 0.8
    assert found.note == ""


def test_motion_is_in_pixels_of_a_frame_of_another_size() -> None:
    surface = texture(1)
    frame = seen(surface, Motion(30, -16, 3), (2 * HEIGHT, 2 * WIDTH), zoom=2.0)
    found = aligner(surface).align(frame)
    assert found.motion is not None
    assert (found.motion.dx_px, found.motion.dy_px) == pytest.approx((30, -16), abs=1)
    assert found.motion.angle_deg == pytest.approx(3, abs=0.3)


def test_grey_frame_is_aligned_as_a_colour_frame() -> None:
    surface = texture(2)
    frame = seen(surface, Motion(9, 4, 2), SHAPE)
    colour, grey = (aligner(surface).align(each) for each in (frame, grey_as_rgb(frame[..., 0].copy())))
    assert colour.motion is not None
    assert grey.motion is not None
    assert grey.motion.dx_px == pytest.approx(colour.motion.dx_px, abs=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_unrelated_frame_is_not_aligned(seed: int) -> None:
    found = aligner(texture(0)).align(seen(texture(10 + seed), STILL, SHAPE))
    assert found.motion is None
    assert "could not be aligned" in found.note


@pytest.mark.parametrize("motion", [Motion(130, 0, 0), Motion(0, 0, 20)], ids=["shift", "rotation"])
def test_part_that_moved_too_far_is_not_aligned(motion: Motion) -> None:
    surface = texture(0)
    assert aligner(surface).align(seen(surface, motion, SHAPE)).motion is None


def test_flat_frame_is_not_aligned() -> None:
    assert aligner(texture(0)).align(np.full((HEIGHT, WIDTH, 3), 128, np.uint8)).motion is None


def test_flat_reference_is_refused() -> None:
    grey = np.random.default_rng(0).normal(128, 2, (HEIGHT, WIDTH, 1)).repeat(3, axis=2).astype(np.uint8)
    blurred = np.asarray(cv2.GaussianBlur(grey, (0, 0), 3), np.uint8)
    with pytest.raises(FailedPrecondition, match=r"too uniform where the mask looks.*; choose another"):
        Aligner.of_image(blurred, np.ones(SHAPE, np.bool_))


def test_reference_that_repeats_itself_is_refused() -> None:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    weave = 128 + 40 * np.sin(columns / 4) * np.sin(rows / 4)
    with pytest.raises(FailedPrecondition, match=r"repeats itself where the mask looks"):
        Aligner.of_image(weave.astype(np.uint8)[..., None].repeat(3, axis=2), np.ones(SHAPE, np.bool_))


def test_part_is_followed_and_not_the_fixture_that_the_mask_ignores() -> None:
    looks = np.zeros(SHAPE, np.bool_)
    looks[50:190, 70:250] = True
    part, fixture = texture(3), seen(texture(4), STILL, SHAPE)

    def scene(motion: Motion) -> Frame:
        moved = cv2.warpAffine(looks.astype(np.uint8), motion.matrix(SHAPE), (WIDTH, HEIGHT))
        return np.where(np.asarray(moved)[..., None] > 0, seen(part, motion, SHAPE), fixture)

    reference = Aligner.of_image(scene(STILL), looks)
    found = reference.align(noisy(scene(Motion(18, -11, 2.5))))
    assert found.motion is not None
    assert (found.motion.dx_px, found.motion.dy_px) == pytest.approx((18, -11), abs=1)
    assert found.motion.angle_deg == pytest.approx(2.5, abs=0.3)


def test_stored_reference_finds_the_same_motion() -> None:
    surface, looks = texture(5), np.ones(SHAPE, np.bool_)
    first = aligner(surface)
    stored = Aligner.from_png(first.to_png(), looks)
    frame = seen(surface, Motion(7, 9, -3), SHAPE)
    assert stored.align(frame) == first.align(frame)
    with pytest.raises(InvalidImage):
        Aligner.from_png(b"not a png", looks)


def test_motion_turns_clockwise_about_the_center() -> None:
    matrix = Motion(10, 5, 90).matrix((101, 201))
    np.testing.assert_allclose(matrix @ (100, 50, 1), (110, 55))
    np.testing.assert_allclose(matrix @ (101, 50, 1), (110, 56), atol=1e-9)
    assert Motion(3, 4, 0).farthest_px((100, 100)) == pytest.approx(5)
