# SPDX-License-Identifier: Apache-2.0
"""Conversion of raw images in GenICam's pixel formats."""

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput, RawLayout, Region
from blemish_core.imaging.pixel_formats import PIXEL_FORMATS
from blemish_core.platform.errors import InvalidImage

LIMITS = ImageLimits()
HEIGHT, WIDTH = 20, 24


def noise(*shape: int, below: int = 256) -> NDArray[np.int64]:
    return np.random.default_rng(7).integers(0, below, shape)


def raw(
    samples: NDArray[np.generic], name: str, stride: int = 0, region: Region | None = None
) -> ImageInput:
    height, width = samples.shape[:2]
    return ImageInput(samples.tobytes(), RawLayout(name, width, height, stride), region)


def scene() -> NDArray[np.uint8]:
    """Return an image (H, W, 3) of smooth colours, which can be interpolated from a mosaic."""
    row, column = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([40 + 5 * row, 60 + 4 * column, 200 - 3 * row], axis=-1).astype(np.uint8)


def mosaic(colours: NDArray[np.uint8], pattern: str) -> NDArray[np.uint8]:
    """Return the samples (H, W) behind a colour filter; ``pattern`` is its first two rows."""
    samples = np.empty(colours.shape[:2], np.uint8)
    for place, letter in enumerate(pattern):
        row, column = divmod(place, 2)
        samples[row::2, column::2] = colours[row::2, column::2, "RGB".index(letter)]
    return samples


def test_8_bit_grey_is_repeated_in_each_channel() -> None:
    samples = noise(HEIGHT, WIDTH).astype(np.uint8)
    pixels = raw(samples, "Mono8").pixels(LIMITS)
    assert pixels.dtype == np.uint8
    assert (pixels == samples[..., None]).all()
    assert pixels.shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(("name", "bits"), [("Mono10", 10), ("Mono12", 12), ("Mono16", 16)])
def test_deep_grey_is_little_endian_and_scaled_to_255(name: str, bits: int) -> None:
    white = (1 << bits) - 1
    samples = noise(HEIGHT, WIDTH, below=white + 1).astype("<u2")
    samples[0, :2] = 0, white
    pixels = raw(samples, name).pixels(LIMITS)
    assert np.abs(pixels[..., 1] - samples * (255 / white)).max() <= 0.5 + 1e-9
    assert pixels[0, :2, 0].tolist() == [0, 255]


def test_rgb_and_bgr_are_read() -> None:
    colours = noise(HEIGHT, WIDTH, 3).astype(np.uint8)
    assert (raw(colours, "RGB8").pixels(LIMITS) == colours).all()
    assert (raw(colours[..., ::-1], "BGR8").pixels(LIMITS) == colours).all()


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG", "GRBG", "BGGR"])
def test_bayer_pattern_gives_the_colours(pattern: str) -> None:
    name = f"Bayer{pattern[:2]}8"
    pixels = raw(mosaic(scene(), pattern), name).pixels(LIMITS)
    inner = np.s_[2:-2, 2:-2]
    assert np.abs(pixels[inner].astype(int) - scene()[inner]).max() <= 3


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_row_padding_is_ignored(name: str) -> None:
    row = PIXEL_FORMATS[name].size_bytes(WIDTH)
    stride = row + 10
    plain = noise(HEIGHT, row, below=4 if "1" in name else 256).astype(np.uint8)
    padded = np.full((HEIGHT, stride), 255, np.uint8)
    padded[:, :row] = plain
    expected = ImageInput(plain.tobytes(), RawLayout(name, WIDTH, HEIGHT)).pixels(LIMITS)
    layout = RawLayout(name, WIDTH, HEIGHT, stride)
    assert (ImageInput(padded.tobytes(), layout).pixels(LIMITS) == expected).all()
    # The last row may lack its padding.
    assert (ImageInput(padded.tobytes()[:-10], layout).pixels(LIMITS) == expected).all()


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_region_equals_the_same_part_of_the_whole_image(name: str) -> None:
    data = noise(PIXEL_FORMATS[name].size_bytes(HEIGHT * WIDTH), below=4).astype(np.uint8).tobytes()
    layout = RawLayout(name, WIDTH, HEIGHT)
    whole = ImageInput(data, layout).pixels(LIMITS)
    # An odd corner shifts the mosaic, but the colours must be those of the whole sensor.
    part = ImageInput(data, layout, Region(left=3, top=1, width=17, height=18)).pixels(LIMITS)
    assert (part == whole[1:19, 3:20]).all()


@pytest.mark.parametrize(
    ("layout", "size", "field", "message"),
    [
        (RawLayout("Mono9", 24, 20), 480, "pixel_format", "none of Mono8"),
        (RawLayout("", 24, 20), 480, "pixel_format", "none of Mono8"),
        (RawLayout("Mono8", 24, 20), 479, "data", "are 480 bytes, but 479 were received"),
        (RawLayout("Mono8", 24, 20), 481, "data", "481 were received"),
        (RawLayout("Mono12", 24, 20), 480, "data", "are 960 bytes"),
        (RawLayout("Mono12p", 24, 20), 960, "data", "are 720 bytes, but 960 were received"),
        (RawLayout("Mono12Packed", 24, 20), 719, "data", "are 720 bytes"),
        (RawLayout("Mono10p", 25, 21), 656, "data", "without padding, are 657 bytes"),
        (RawLayout("Mono10p", 25, 21, 31), 651, "stride", "take 32"),
        (RawLayout("Mono12p", 25, 20, 38), 750, "data", "38 bytes a row, are 760 bytes"),
        (RawLayout("RGBa8", 24, 20), 1440, "data", "are 1920 bytes"),
        (RawLayout("YUV422_8", 24, 20), 480, "data", "are 960 bytes"),
        (RawLayout("YUV422_8", 25, 20), 1000, "width", "send an even width"),
        (RawLayout("Mono8", 24, 20, 23), 480, "stride", "take 24"),
        (RawLayout("Mono8", 24, 20, -24), 480, "stride", "take 24"),
        (RawLayout("Mono8", 0, 20), 0, "raw", "needs at least 16"),
        (RawLayout("Mono8", -24, -20), 480, "raw", "needs at least 16"),
        (RawLayout("RGB8", 2_000_000_000, 2_000_000_000), 480, "raw", "may have at most"),
        (RawLayout("Mono8", 16_000, 16_000), 480, "raw", "BLEMISH_MAX_IMAGE_PIXELS"),
        (RawLayout("Mono8", 24, 20, 2_000_000_000), 480, "data", "480 were received"),
    ],
)
def test_invalid_layout_names_its_field(layout: RawLayout, size: int, field: str, message: str) -> None:
    with pytest.raises(InvalidImage, match=message) as rejected:
        ImageInput(bytes(size), layout).pixels(LIMITS)
    assert rejected.value.field.endswith(field)


def test_samples_above_white_are_rejected() -> None:
    samples = np.full((HEIGHT, WIDTH), 1024, "<u2")
    with pytest.raises(InvalidImage, match="a sample is 1024, but the white of Mono10 is 1023"):
        raw(samples, "Mono10").pixels(LIMITS)


@pytest.mark.parametrize(
    "region",
    [
        Region(-1, 0, 20, 20),
        Region(0, 0, 25, 20),
        Region(8, 0, 17, 20),
        Region(0, 0, 15, 20),
        Region(0, 0, 0, 0),
        Region(2_000_000_000, 0, 2_000_000_000, 20),
    ],
)
def test_region_outside_or_too_small_is_rejected(region: Region) -> None:
    samples = np.zeros((HEIGHT, WIDTH), np.uint8)
    with pytest.raises(InvalidImage) as rejected:
        raw(samples, "Mono8", region=region).pixels(LIMITS)
    assert rejected.value.field == "image.region"
