# SPDX-License-Identifier: Apache-2.0
"""PGM, PPM and JPEG 2000."""

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish_core.imaging.decode import ImageLimits, decode, read_mask, verify
from blemish_core.platform.errors import InvalidImage

if TYPE_CHECKING:
    from tests.core.imaging.decode.conftest import Files

HEIGHT, WIDTH = 18, 23


def samples(below: int, *channels: int) -> NDArray[np.int64]:
    return np.random.default_rng(11).integers(0, below, (HEIGHT, WIDTH, *channels))


def pnm(kind: int, values: NDArray[np.int64], maxval: int, head: str = "{w} {h}\n{m}\n") -> bytes:
    text = f"P{kind}\n" + head.format(w=WIDTH, h=HEIGHT, m=maxval)
    if kind < 5:
        return text.encode() + " ".join(map(str, values.ravel())).encode()
    return text.encode() + values.astype(">u2" if maxval > 255 else np.uint8).tobytes()


@pytest.mark.parametrize("kind", [2, 3, 5, 6])
@pytest.mark.parametrize("maxval", [1, 100, 255, 1023, 4095, 4000, 65_535])
def test_maxval_of_the_header_is_white(kind: int, maxval: int) -> None:
    values = samples(maxval + 1, *([3] if kind in (3, 6) else []))
    values[0, :2] = 0
    values[0, 2] = maxval
    found = decode(pnm(kind, values, maxval))
    expected = values * 255 / maxval
    assert np.abs(found - (expected if values.ndim == 3 else expected[..., None])).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "head", ["# made by hand\n{w} {h}\n#twice\n{m}\n", "{w}\t{h}\r\n{m} ", "{w} {h} {m}\n"]
)
def test_comments_and_any_white_space_are_read(head: str) -> None:
    values = samples(256)
    assert (decode(pnm(5, values, 255, head)) == values[..., None]).all()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"P5 ", "malformed"),
        (b"P5 #" + b"x" * 100_000, "malformed"),
        (b"P5 20 20 0\n" + bytes(400), "white of 0"),
        (b"P5 20 20 65536\n" + bytes(800), "white of 65536"),
        (b"P5 20 20 255\n" + bytes(399), "take 400 bytes after the header, but it has 399"),
        (b"P6 20 20 4095\n" + bytes(400), "take 2400 bytes"),
        (b"P5 20 20 100\n" + b"\xc8" * 400, "a sample is 200, but the PGM or PPM has a white of 100"),
        (b"P2 20 20 255\n" + b"1 " * 399, "399 of 400"),
        (b"P2 20 20 255\n" + b"1 " * 399 + b"x", "other text than numbers"),
        (b"P2 20 20 255\n" + b"-1 " * 400, "of 400"),
        (b"P5 99999 20 255\n", "truncated|may have at most"),
    ],
)
def test_malformed_pnm_is_refused_with_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(InvalidImage, match=message):
        decode(data)


def test_pgm_is_accepted_as_a_mask() -> None:
    values = samples(3) * 2
    assert (read_mask(pnm(5, values, 4095)) == (values > 0)).all()


@pytest.mark.parametrize("shape", [(40, 56), (40, 56, 3), (40, 56, 4)])
def test_lossless_jpeg_2000_gives_its_pixels(files: "Files", shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(3).integers(0, 256, shape).astype(np.uint8)
    if len(shape) == 3:
        values[..., 3:] = 255
    found = decode(files.encoded(values, "JPEG2000", irreversible=False))
    assert (found == (values[..., :3] if values.ndim == 3 else values[..., None])).all()


def test_deep_jpeg_2000_is_scaled(files: "Files") -> None:
    values = np.random.default_rng(3).integers(0, 65_536, (40, 56)).astype(np.uint16)
    assert (decode(files.encoded(values, "JPEG2000"))[..., 0] == files.eighth(values)).all()


def test_jpeg_2000_is_refused_as_a_mask(files: "Files") -> None:
    with pytest.raises(InvalidImage, match="save it as PNG"):
        read_mask(files.encoded(np.zeros((40, 56), np.uint8), "JPEG2000"))


def changed(data: bytes, marker: bytes, offset: int, fields: str, *values: int) -> bytes:
    at = data.index(marker) + offset
    packed = struct.pack(fields, *values)
    return data[:at] + packed + data[at + len(packed) :]


@pytest.mark.parametrize(
    ("marker", "offset", "fields", "values", "message"),
    [
        (b"\xff\x51", 6, ">II", (60_000, 60_000), "tiles"),
        (b"\xff\x51", 22, ">II", (1, 1), "truncated"),
        (b"\xff\x51", 22, ">II", (0, 0), "malformed"),
        (b"\xff\x51", 38, ">H", (3000,), "components"),
        (b"\xff\x51", 40, ">B", (37,), "38 bits|different depth"),
        (b"\xff\x51", 41, ">B", (2,), "lower resolution"),
        (b"\xff\x52", 6, ">H", (65_000,), "cost a lot of memory"),
        (b"\xff\x52", 10, ">B", (0,), "cost a lot of memory"),
        (b"\xff\x52", 0, ">H", (0xFF53,), "rare|malformed"),
        (b"\xff\x90", 12, ">H", (0xFF52,), "rare"),
    ],
)
def test_jpeg_2000_that_asks_for_much_memory_is_refused_unopened(
    files: "Files", marker: bytes, offset: int, fields: str, values: tuple[int, ...], message: str
) -> None:
    data = files.encoded(files.sample_image(), "JPEG2000")
    with pytest.raises(InvalidImage, match=message):
        decode(changed(data, marker, offset, fields, *values))


def test_small_precincts_are_refused(files: "Files") -> None:
    with pytest.raises(InvalidImage, match="cost a lot of memory"):
        decode(files.encoded(files.sample_image(), "JPEG2000", codeblock_size=(4, 4)))


def test_samples_of_a_jpeg_2000_are_limited(files: "Files") -> None:
    data = files.encoded(files.sample_image(), "JPEG2000")
    verify(data, ImageLimits(max_pixels=3 * 48 * 48))
    with pytest.raises(InvalidImage, match="6912 samples"):
        verify(data, ImageLimits(max_pixels=3 * 48 * 48 - 1))
