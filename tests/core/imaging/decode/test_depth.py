# SPDX-License-Identifier: Apache-2.0

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from blemish_core.imaging.decode import decode
from blemish_core.platform.errors import InvalidImage

if TYPE_CHECKING:
    from tests.core.imaging.decode.conftest import Files, Order

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
SEED = 20_260
PX = 48


class TestDepth:
    def test_grey_png(self, files: "Files") -> None:
        every = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
        assert (decode(files.encoded(every, "PNG")) == files.eighth(every)[..., None]).all()

    @pytest.mark.parametrize("order", "<>")
    def test_grey_tiff(self, files: "Files", order: "Order") -> None:
        grey = files.deep(1)
        assert (decode(files.tiff(grey, order, 1)) == files.eighth(grey)).all()

    def test_inverted_grey_is_converted(self, files: "Files") -> None:
        grey = files.deep(1)
        assert (decode(files.tiff(grey, "<", 0)) == files.eighth(65_535 - grey)).all()

    def test_transparent_grey(self, files: "Files") -> None:
        grey = files.deep(1)
        grey[:4] = 40_000
        data = files.png(grey, 0, files.chunk(b"tRNS", struct.pack(">H", 40_000)))
        assert (decode(data) == files.eighth(np.where(grey == 40_000, 0, grey))).all()

    def test_colour_png(self, files: "Files") -> None:
        colour = files.deep(3)
        assert (decode(files.png(colour, 2)) == files.eighth(colour)).all()

    def test_transparent_colour(self, files: "Files") -> None:
        colour = files.deep(3)
        key = colour[5, 5]
        expected = colour.copy()
        expected[5, 5] = 0
        assert (
            decode(files.png(colour, 2, files.chunk(b"tRNS", struct.pack(">3H", *key))))
            == files.eighth(expected)
        ).all()

    @pytest.mark.parametrize(("colour", "channels"), [(4, 2), (6, 4)])
    def test_alpha_png(self, files: "Files", colour: int, channels: int) -> None:
        values = files.deep(channels)
        expected = values[..., :-1].astype(float) * values[..., -1:] / 65_535 * 255 / 65_535
        assert np.abs(decode(files.png(values, colour)) - expected).max() < 0.51

    @pytest.mark.parametrize("order", "<>")
    def test_colour_tiff(self, files: "Files", order: "Order") -> None:
        colour = files.deep(3)
        assert (decode(files.tiff(colour, order, 2)) == files.eighth(colour)).all()

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
    def test_compressed_grey_tiff(self, files: "Files", compression: str) -> None:
        grey = files.deep(1)[..., 0]
        assert (
            decode(files.encoded(grey, "TIFF", compression=compression))[..., 1] == files.eighth(grey)
        ).all()

    def test_integers_within_16_bits_are_accepted(self, files: "Files") -> None:
        values = files.deep(1).astype(np.int32)
        assert (decode(files.tiff(values, "<", 1)) == files.eighth(values)).all()

    def test_integers_beyond_16_bits_are_rejected(self, files: "Files") -> None:
        for odd in (-1, 65_536):
            values = files.deep(1).astype(np.int32)
            values[0, 0] = odd
            with pytest.raises(InvalidImage, match=r"32-bit samples from .* 8 or 16 bits"):
                decode(files.tiff(values, "<", 1))

    def test_floats_from_zero_to_one_are_scaled(self, files: "Files") -> None:
        values = np.linspace(0, 1, PX * PX, dtype=np.float32).reshape(PX, PX, 1)
        assert np.abs(decode(files.tiff(values, "<", 1)) - values * 255).max() < 0.51

    @pytest.mark.parametrize("odd", [1.5, -0.1, np.nan, np.inf])
    def test_floats_of_unknown_scale_are_rejected(self, files: "Files", odd: float) -> None:
        values = np.full((PX, PX, 1), 0.5, np.float32)
        values[3, 3] = odd
        with pytest.raises(InvalidImage, match="does not define white"):
            decode(files.tiff(values, "<", 1))

    def test_separate_planes_are_rejected(self, files: "Files") -> None:
        with pytest.raises(InvalidImage, match="interleaved"):
            decode(files.tiff(files.deep(3), "<", 2, t284=2))
