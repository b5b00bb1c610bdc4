# SPDX-License-Identifier: Apache-2.0
"""Unpacking of raw pixel formats, against references that follow the standards bit by bit."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput, RawLayout
from blemish_core.imaging.pixel_formats import PIXEL_FORMATS

LIMITS = ImageLimits()
PATTERNS = ("RG", "GB", "GR", "BG")


def packed_least_first(samples: list[int], bits: int) -> bytes:
    """Pack samples as PFNC defines it: a stream of bits, the least significant of each sample first."""
    stream = "".join(f"{sample:0{bits}b}"[::-1] for sample in samples)
    stream += "0" * (-len(stream) % 8)
    return bytes(int(stream[at : at + 8][::-1], 2) for at in range(0, len(stream), 8))


def packed_by_gige(samples: list[int], bits: int) -> bytes:
    """Pack samples as GigE Vision defines it: two of them in three bytes, their low bits in the middle."""
    low = bits - 8
    packed = bytearray()
    for at in range(0, len(samples), 2):
        first, second = samples[at], samples[at + 1] if at + 1 < len(samples) else 0
        packed.append(first >> low)
        packed.append((second & ((1 << low) - 1)) << 4 | first & ((1 << low) - 1))
        packed.append(second >> low)
    return bytes(packed) if len(samples) % 2 == 0 else bytes(packed[:-1])


Pack = Callable[[list[int], int], bytes]
PACKED: list[tuple[str, int, Pack]] = [
    ("Mono10p", 10, packed_least_first),
    ("Mono12p", 12, packed_least_first),
    ("Mono14p", 14, packed_least_first),
    ("Mono10Packed", 10, packed_by_gige),
    ("Mono12Packed", 12, packed_by_gige),
]


def random_samples(seed: int, bits: int, height: int, width: int) -> NDArray[np.uint16]:
    samples = np.random.default_rng(seed).integers(0, 1 << bits, (height, width))
    samples[0, :2] = 0, (1 << bits) - 1
    return samples.astype("<u2")


def pixels(data: bytes, name: str, width: int, height: int, stride: int = 0) -> NDArray[np.uint8]:
    return ImageInput(data, RawLayout(name, width, height, stride)).pixels(LIMITS)


@pytest.mark.parametrize("width", [16, 17, 18, 19, 20, 31])
@pytest.mark.parametrize(("name", "bits", "pack"), PACKED, ids=[name for name, *_ in PACKED])
def test_packed_samples_are_those_of_the_unpacked_format(
    name: str, bits: int, pack: Pack, width: int
) -> None:
    samples = random_samples(width, bits, 17, width)
    expected = pixels(samples.tobytes(), f"Mono{bits}", width, 17)
    assert (pixels(pack(samples.ravel().tolist(), bits), name, width, 17) == expected).all()


@pytest.mark.parametrize(("name", "bits", "pack"), PACKED, ids=[name for name, *_ in PACKED])
def test_padded_rows_of_packed_samples_begin_at_whole_bytes(name: str, bits: int, pack: Pack) -> None:
    width, stride = 19, 40
    samples = random_samples(3, bits, 16, width)
    data = b"".join(pack(row.tolist(), bits).ljust(stride, b"\xaa") for row in samples)
    expected = pixels(samples.tobytes(), f"Mono{bits}", width, 16)
    assert (pixels(data, name, width, 16, stride) == expected).all()


def test_documented_examples_of_both_12_bit_layouts() -> None:
    samples = [0xABC, 0x123]
    assert packed_least_first(samples, 12) == bytes([0xBC, 0x3A, 0x12])
    assert packed_by_gige(samples, 12) == bytes([0xAB, 0x3C, 0x12])


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("suffix", "bits", "pack"),
    [
        ("10", 10, None),
        ("12", 12, None),
        ("16", 16, None),
        ("10p", 10, packed_least_first),
        ("12p", 12, packed_least_first),
        ("10Packed", 10, packed_by_gige),
        ("12Packed", 12, packed_by_gige),
    ],
)
def test_deep_bayer_mosaic_gives_the_colours_of_8_bits(
    pattern: str, suffix: str, bits: int, pack: Pack | None
) -> None:
    eight = np.random.default_rng(1).integers(0, 256, (16, 18))
    deep = (eight * ((1 << bits) - 1) // 255).astype("<u2")
    data = deep.tobytes() if pack is None else pack(deep.ravel().tolist(), bits)
    expected = pixels(eight.astype(np.uint8).tobytes(), f"Bayer{pattern}8", 18, 16)
    found = pixels(data, f"Bayer{pattern}{suffix}", 18, 16).astype(int)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize(("name", "order"), [("YUV422_8", "YUYV"), ("YUV422_8_UYVY", "UYVY")])
def test_yuv_has_full_range_and_shares_colours_between_two_pixels(name: str, order: str) -> None:
    random = np.random.default_rng(5)
    height, width = 16, 20
    y, u, v = (random.integers(0, 256, (height, columns)) for columns in (width, width // 2, width // 2))
    data = bytearray()
    for row in range(height):
        for pair in range(width // 2):
            values = {"U": u[row, pair], "V": v[row, pair]}
            luma = iter(y[row, 2 * pair : 2 * pair + 2])
            data += bytes(int(next(luma) if letter == "Y" else values[letter]) for letter in order)
    found = pixels(bytes(data), name, width, height).astype(int)
    for row in range(height):
        for column in range(width):
            blue, red = u[row, column // 2] - 128, v[row, column // 2] - 128
            luma = y[row, column]
            exact = (luma + 1.402 * red, luma - 0.344 * blue - 0.714 * red, luma + 1.772 * blue)
            assert found[row, column] == pytest.approx([min(255, max(0, each)) for each in exact], abs=1.5)


def test_grey_yuv_equals_8_bit_grey() -> None:
    grey = np.random.default_rng(6).integers(0, 256, (16, 16)).astype(np.uint8)
    samples = np.stack([grey, np.full_like(grey, 128)], axis=-1)
    assert (pixels(samples.tobytes(), "YUV422_8", 16, 16) == grey[..., None]).all()
    assert (pixels(samples[..., ::-1].tobytes(), "YUV422_8_UYVY", 16, 16) == grey[..., None]).all()


@pytest.mark.parametrize(("name", "order"), [("RGBa8", [0, 1, 2, 3]), ("BGRa8", [2, 1, 0, 3])])
def test_alpha_is_composed_over_black_as_in_files(name: str, order: list[int]) -> None:
    rgba = np.random.default_rng(7).integers(0, 256, (16, 18, 4)).astype(np.uint8)
    black = Image.new("RGBA", (18, 16), "black")
    expected = np.asarray(Image.alpha_composite(black, Image.fromarray(rgba)))[..., :3].astype(int)
    found = pixels(np.ascontiguousarray(rgba[..., order]).tobytes(), name, 18, 16).astype(int)
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_every_format_of_any_size_is_read_or_refused_with_a_reason(name: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = (int(side) for side in random.integers(16, 40, size=2))
    kind = PIXEL_FORMATS[name]
    if name.startswith("YUV"):
        width += width % 2
    padding = int(random.integers(0, 9)) * int(random.integers(0, 2))
    stride = kind.size_bytes(width) + padding if padding else 0
    size = stride * height or kind.size_bytes(width * height)
    data = bytes(size)
    assert pixels(data, name, width, height, stride).shape == (height, width, 3)
