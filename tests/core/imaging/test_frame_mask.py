# SPDX-License-Identifier: Apache-2.0

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.support.moving_part import STILL, Frame, seen, texture

from blemish_core.imaging.alignment import Motion
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.frame_mask import MAX_BYTES, FrameMask, size_mismatch
from blemish_core.imaging.image_input import Region
from blemish_core.imaging.samples import grey_as_rgb
from blemish_core.platform.errors import InvalidImage


def left_ignored(height: int = 32, width: int = 48, columns: int = 16) -> NDArray[np.bool_]:
    looks = np.ones((height, width), np.bool_)
    looks[:, :columns] = False
    return looks


def encoded(pixels: NDArray[Any] | Image.Image, kind: str = "PNG") -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    out = BytesIO()
    image.save(out, kind)
    return out.getvalue()


WHITE = left_ignored() * np.uint8(255)


@pytest.mark.parametrize(
    "png",
    [
        encoded(WHITE),
        encoded(left_ignored()),
        encoded(Image.fromarray(WHITE).convert("RGB")),
        encoded(Image.fromarray(WHITE).convert("RGBA")),
        encoded(Image.fromarray(WHITE).convert("P")),
        encoded(WHITE.astype(np.uint16) * 257),
    ],
    ids=["8 bits", "1 bit", "RGB", "RGBA", "palette", "16 bits"],
)
def test_png_of_any_depth_is_read(png: bytes) -> None:
    mask = FrameMask.from_png(png)
    assert mask.shape == (32, 48)
    np.testing.assert_array_equal(mask.fitted((32, 48)), left_ignored())
    assert mask.ignored_share == pytest.approx(1 / 3)


def test_stored_png_equals_the_mask_and_its_summary() -> None:
    mask = FrameMask(left_ignored())
    again = FrameMask.from_png(mask.to_png())
    assert again.summary() == mask.summary()
    assert (mask.summary().width, mask.summary().height) == (48, 32)
    assert mask.summary().sha256 != FrameMask(left_ignored(columns=17)).summary().sha256


def test_smooth_outline_is_cut_at_half_brightness() -> None:
    smooth = WHITE.copy()
    smooth[:, 15], smooth[:, 16] = 100, 150
    np.testing.assert_array_equal(FrameMask.from_png(encoded(smooth)).fitted((32, 48)), left_ignored())


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(np.zeros((32, 48), np.uint8)), "ignores every pixel"),
        (encoded(noise(32, 48)), "neither black nor white"),
        (encoded(noise(32, 48, 3)), "has colours"),
        (encoded(WHITE, "BMP"), "not a PNG"),
        (b"", "not a PNG"),
        (encoded(WHITE)[:-20], "mask: .*send the whole file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(MAX_BYTES), "at most"),
    ],
    ids=["black", "photograph", "colour photograph", "BMP", "empty", "truncated", "large"],
)
def test_other_content_is_rejected(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidImage, match=reason) as caught:
        FrameMask.from_png(data, field="train.mask.png")
    assert caught.value.field == "train.mask.png"


def test_header_beyond_the_limits_is_rejected_before_any_pixel_is_decoded() -> None:
    with pytest.raises(InvalidImage, match="BLEMISH_MAX_IMAGE_PIXELS"):
        FrameMask.from_png(encoded(np.full((9000, 9000), 255, np.uint8)), ImageLimits())


def test_content_of_ignored_pixels_does_not_matter() -> None:
    mask = FrameMask(left_ignored())
    frame = noise(32, 48, 3)
    other = frame.copy()
    other[:, :16] = noise(32, 16, 3)[::-1]
    masked = mask.apply(frame)
    filled = masked.pixels
    np.testing.assert_array_equal(filled, mask.apply(other).pixels)
    np.testing.assert_array_equal(masked.looks, left_ignored())
    np.testing.assert_array_equal(filled[:, 16:], frame[:, 16:])
    np.testing.assert_array_equal(filled[:, :16], np.repeat(frame[:, 16:17], 16, axis=1))


def test_grey_frame_stays_grey_and_unchanged() -> None:
    grey = noise(32, 48)
    before = grey.copy()
    filled = FrameMask(left_ignored()).apply(grey_as_rgb(grey)).pixels
    assert filled.strides[2] == 0
    np.testing.assert_array_equal(filled[:, 16:, 0], before[:, 16:])
    np.testing.assert_array_equal(grey, before)


def test_region_of_a_frame_has_its_part_of_the_mask() -> None:
    mask, frame = FrameMask(left_ignored()), noise(32, 48, 3)
    whole, part = mask.apply(frame), mask.apply(frame, Region(8, 4, 16, 20))
    np.testing.assert_array_equal(part.pixels, whole.pixels[4:24, 8:24])
    np.testing.assert_array_equal(part.looks, whole.looks[4:24, 8:24])
    with pytest.raises(InvalidImage, match="ignores the whole region"):
        mask.apply(frame, Region(0, 0, 16, 16))
    with pytest.raises(InvalidImage, match="choose a region within it"):
        mask.apply(frame, Region(40, 0, 16, 16))


def test_mask_is_scaled_to_frames_of_the_same_aspect_ratio() -> None:
    mask = FrameMask(left_ignored())
    assert mask.note((32, 48)) == ""
    np.testing.assert_array_equal(mask.fitted((64, 96)), left_ignored(64, 96, 32))
    assert "scaled from 48 x 32 px to the 96 x 64" in mask.note((64, 96))
    assert mask.fitted((8, 12)).sum() == 8 * 8
    with pytest.raises(
        InvalidImage, match="the frame is 32 x 48 px, but the mask is for 48 x 32"
    ) as caught:
        mask.apply(noise(48, 32, 3))
    assert caught.value.field == "image"


def test_sides_rounded_to_whole_pixels_have_the_same_aspect_ratio() -> None:
    assert size_mismatch((75, 100), (748, 1000)) == ""
    assert size_mismatch((480, 641), (480, 640)) != ""
    assert size_mismatch((2048, 2448), (1024, 1224)) == ""
    assert size_mismatch((256, 256), (256, 4096)) != ""


def test_small_looked_part_survives_shrinking() -> None:
    looks = np.zeros((64, 64), np.bool_)
    looks[33, 33] = True
    assert FrameMask(looks).fitted((16, 16)).sum() == 1


PART = (160, 240)
"""Height and width of frames of a part."""


def code_ignored() -> NDArray[np.bool_]:
    """Return a mask that ignores a printed code on the part, and looks at everything else."""
    looks = np.ones(PART, np.bool_)
    looks[60:90, 100:150] = False
    return looks


def part(motion: Motion, code: int | None = None) -> Frame:
    """Return a frame of the part, with another code where the mask ignores it."""
    surface = texture(0)
    if code is not None:
        noise = np.random.default_rng(code).integers(0, 256, (26, 46, 1), dtype=np.uint8)
        top, left = (512 - PART[0]) // 2 + 62, (512 - PART[1]) // 2 + 102
        surface[top : top + 26, left : left + 46] = noise
    return seen(surface, motion, PART)


@pytest.mark.parametrize("motion", [STILL, Motion(14, -9, 3), Motion(-20.5, 6.2, -4)])
def test_ignored_code_stays_ignored_if_the_part_moves(motion: Motion) -> None:
    mask = FrameMask(code_ignored()).aligned_to(part(STILL))
    plain, printed = part(motion), part(motion, code=1)
    masked = mask.apply(printed)
    assert masked.alignment is not None
    assert masked.alignment.motion is not None
    # Interpolation spreads the code by two pixels into the margin around it.
    changed = (plain != printed).any(axis=2)
    assert changed.any()
    assert not (changed & masked.looks).any()
    assert (masked.looks == mask.resized(PART, motion)).mean() > 0.98
    still = FrameMask(code_ignored()).apply(printed)
    assert (changed & still.looks).any() == (motion != STILL)


def test_pixels_of_the_frame_do_not_move_with_the_mask() -> None:
    frame = part(Motion(14, -9, 3), code=1)
    masked = FrameMask(code_ignored()).aligned_to(part(STILL)).apply(frame)
    np.testing.assert_array_equal(masked.pixels[masked.looks], frame[masked.looks])


def test_pixels_that_the_reference_does_not_show_are_ignored() -> None:
    masked = FrameMask(code_ignored()).aligned_to(part(STILL)).apply(part(Motion(20, 0, 0)))
    assert not masked.looks[:, :18].any()
    assert masked.looks[:, 22:100].mean() == 1


def test_region_has_its_part_of_the_moved_mask() -> None:
    mask, frame = FrameMask(code_ignored()).aligned_to(part(STILL)), part(Motion(14, -9, 3))
    whole, cropped = mask.apply(frame), mask.apply(frame, Region(90, 30, 80, 60))
    np.testing.assert_array_equal(cropped.looks, whole.looks[30:90, 90:170])
    np.testing.assert_array_equal(cropped.pixels, whole.pixels[30:90, 90:170])
    assert cropped.alignment == whole.alignment


def test_frame_that_cannot_be_aligned_gets_the_mask_as_drawn_and_a_note() -> None:
    mask = FrameMask(code_ignored()).aligned_to(part(STILL))
    masked = mask.apply(seen(texture(9), STILL, PART))
    np.testing.assert_array_equal(masked.looks, code_ignored())
    assert masked.alignment is not None
    assert masked.alignment.motion is None
    assert "so the mask was not moved" in masked.alignment.note


def test_stored_reference_moves_the_mask_alike() -> None:
    mask = FrameMask(code_ignored()).aligned_to(part(STILL))
    png = mask.reference_png()
    assert png is not None
    stored = FrameMask.from_png(mask.to_png()).with_reference(png)
    frame = part(Motion(14, -9, 3))
    np.testing.assert_array_equal(stored.apply(frame).looks, mask.apply(frame).looks)
    assert FrameMask(code_ignored()).reference_png() is None
