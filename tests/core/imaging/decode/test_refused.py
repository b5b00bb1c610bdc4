# SPDX-License-Identifier: Apache-2.0

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from blemish_core.imaging.decode import ImageLimits, decode
from blemish_core.platform.errors import InvalidImage

if TYPE_CHECKING:
    from tests.core.imaging.decode.conftest import Files

FORMATS = ("JPEG", "JPEG2000", "PNG", "BMP", "TIFF", "WEBP", "PPM")
SEED = 20_260
PX = 48


class TestRejectedImages:
    def test_empty_bytes_are_rejected(self) -> None:
        with pytest.raises(InvalidImage, match="empty"):
            decode(b"")

    @pytest.mark.parametrize("data", [b"x", b"GIF89a", b"%PDF-1.7", b"RIFF1234WAVEfmt ", b"\0" * 4096])
    def test_other_bytes_are_rejected(self, data: bytes) -> None:
        with pytest.raises(InvalidImage, match="not a JPEG, JPEG 2000, PNG"):
            decode(data)

    @pytest.mark.parametrize("kind", ["GIF", "ICO", "TGA", "EPS"])
    def test_other_pillow_plugins_never_run(
        self, files: "Files", kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = files.encoded(files.sample_image(), kind)

        def called(*_: object) -> None:
            raise AssertionError("Pillow chose a plugin")

        for entry in ("open", "init", "preinit"):
            monkeypatch.setattr(Image, entry, called)
        with pytest.raises(InvalidImage, match="convert it"):
            decode(data)

    @pytest.mark.parametrize("kind", FORMATS)
    def test_truncated_file_is_rejected(self, files: "Files", kind: str) -> None:
        data = files.encoded(files.sample_image(), kind)
        with pytest.raises(InvalidImage):
            decode(data[:2])
        ends = {16, 30, *range(len(data) // 7, len(data), len(data) // 7)}
        for end in (*ends, len(data) - 40, len(data) - 2, len(data) - 1):
            with pytest.raises(InvalidImage, match="send the whole"):
                decode(data[:end])
                print("accepted", end, "of", len(data))

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
    def test_truncated_tiff_strip_is_rejected(self, files: "Files", compression: str) -> None:
        data = files.encoded(files.sample_image(), "TIFF", compression=compression)
        (directory,) = struct.unpack("<I", data[4:8])
        if directory > 100:  # the directory comes last: take the end of the pixels away instead
            data = data.replace(data[directory - 400 : directory], b"", 1)
        with pytest.raises(InvalidImage):
            decode(data[:-200])

    def test_flipped_bit_in_a_png_is_rejected(self, files: "Files") -> None:
        data = bytearray(files.encoded(files.sample_image(), "PNG"))
        data[len(data) // 2] ^= 4
        with pytest.raises(InvalidImage, match="cannot be decoded"):
            decode(bytes(data))

    def test_too_small_image_is_rejected(self, files: "Files") -> None:
        with pytest.raises(InvalidImage, match=r"1 x 1 px.*at least 16"):
            decode(files.encoded(files.sample_image(1, 1), "PNG"))
        with pytest.raises(InvalidImage, match=r"100 x 15 px"):
            decode(files.encoded(files.sample_image(15, 100), "JPEG"))

    def test_too_many_bytes_are_rejected(self, files: "Files") -> None:
        data = files.encoded(files.sample_image(), "BMP")
        with pytest.raises(InvalidImage, match=rf"{len(data)} bytes.*{len(data) - 1}.*MAX_IMAGE_BYTES"):
            decode(data, ImageLimits(max_bytes=len(data) - 1))
        assert decode(data, ImageLimits(max_bytes=len(data))).shape == (PX, PX, 3)

    def test_too_long_side_is_rejected(self, files: "Files") -> None:
        data = files.encoded(files.sample_image(20, 101), "PNG")
        with pytest.raises(InvalidImage, match=r"101 x 20 px.*at most 100"):
            decode(data, ImageLimits(max_side=100))

    def test_too_many_pixels_are_rejected(self, files: "Files") -> None:
        data = files.encoded(files.sample_image(20, 100), "PNG")
        with pytest.raises(InvalidImage, match=r"100 x 20 = 2000 pixels.*1999.*MAX_IMAGE_PIXELS"):
            decode(data, ImageLimits(max_pixels=1999))
        assert decode(data, ImageLimits(max_pixels=2000)).shape == (20, 100, 3)

    def test_limits_beyond_those_of_pillow_are_rejected(self) -> None:
        with pytest.raises(ValueError, match="BLEMISH_MAX_IMAGE_PIXELS"):
            ImageLimits(max_pixels=200_000_000)

    def test_excessive_jpeg_scans_are_rejected(self, files: "Files") -> None:
        data = files.encoded(files.sample_image(), "JPEG", progressive=True)
        assert decode(data).shape == (PX, PX, 3)
        start = data.rindex(b"\xff\xda")
        scan, end = data[start:-2], data[-2:]
        with pytest.raises(InvalidImage, match="100 scans"):
            decode(data[:start] + scan * 200 + end)

    @pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
    def test_bomb_in_the_metadata_is_rejected(self, files: "Files", kind: bytes) -> None:
        bomb = files.chunk(kind, b"name\0\0" + zlib.compress(b"\0" * (5 << 20)))
        with pytest.raises(InvalidImage, match="too large"):
            decode(files.png(files.sample_image(), 2, bomb, depth=8))

    def test_many_text_chunks_are_rejected(self, files: "Files") -> None:
        text = files.chunk(b"zTXt", b"name\0\0" + zlib.compress(b"x" * PngImagePlugin.MAX_TEXT_CHUNK))
        with pytest.raises(InvalidImage, match="text"):
            decode(files.png(files.sample_image(), 2, *[text] * 70, depth=8))

    def test_unsupported_samples_are_rejected(self, files: "Files") -> None:
        doubles = files.tiff(files.sample_image().astype(np.float64), "<", 2)
        with pytest.raises(InvalidImage, match="cannot be decoded"):
            decode(doubles)

    def test_lack_of_memory_is_reported(self, files: "Files", monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise MemoryError

        data = files.encoded(files.sample_image(), "PNG")
        monkeypatch.setattr("PIL.Image.core.new", full)
        monkeypatch.setattr("PIL.Image.core.fill", full)
        with pytest.raises(InvalidImage, match="memory"):
            decode(data)
