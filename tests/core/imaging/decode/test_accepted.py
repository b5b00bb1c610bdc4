# SPDX-License-Identifier: Apache-2.0

import struct
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageOps

from blemish_core.imaging.decode import decode, read_header, verify

if TYPE_CHECKING:
    from tests.core.imaging.decode.conftest import Files

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
SEED = 20_260
PX = 48


class TestAcceptedImages:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_every_format(self, files: "Files", kind: str) -> None:
        pixels = decode(
            files.encoded(
                files.sample_image(40, 56), kind, **({"lossless": True} if kind == "WEBP" else {})
            )
        )
        assert pixels.shape == (40, 56, 3)
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable and pixels.flags.c_contiguous
        allowed = 40 if kind == "JPEG" else 0
        assert np.abs(pixels.astype(int) - files.sample_image(40, 56)).max() <= allowed

    @pytest.mark.parametrize("kind", FORMATS)
    def test_verify_returns_format_and_size(self, files: "Files", kind: str) -> None:
        header = verify(files.encoded(files.sample_image(40, 56), kind))
        assert (header.format, header.width, header.height) == (kind, 56, 40)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
    def test_compressed_tiff(self, files: "Files", compression: str) -> None:
        pixels = decode(files.encoded(files.sample_image(), "TIFF", compression=compression))
        assert np.abs(pixels.astype(int) - files.sample_image()).max() <= (
            60 if compression == "jpeg" else 0
        )

    def test_grey(self, files: "Files") -> None:
        grey = files.sample_image()[..., 0]
        for data in (files.encoded(grey, "PNG"), files.encoded(grey, "BMP"), files.encoded(grey, "TIFF")):
            assert (decode(data) == grey[..., None]).all()

    def test_one_bit(self, files: "Files") -> None:
        bits = files.sample_image()[..., 0] > 90
        for kind in ("PNG", "BMP", "TIFF"):
            assert (decode(files.encoded(Image.fromarray(bits), kind)) == bits[..., None] * 255).all()

    def test_palette(self, files: "Files") -> None:
        image = Image.fromarray(files.sample_image()).quantize(16)
        assert (decode(files.encoded(image, "PNG")) == np.array(image.convert("RGB"))).all()

    @pytest.mark.parametrize("transparency", [3, bytes([255, 128, 0, 7])])
    def test_palette_with_transparency(self, files: "Files", transparency: int | bytes) -> None:
        image = Image.fromarray(files.sample_image()).quantize(4)
        alphas = [255] * 4
        if isinstance(transparency, int):
            alphas[transparency] = 0
        else:
            alphas = list(transparency)
        alpha = np.array(alphas)[np.array(image)][..., None]
        expected = np.array(image.convert("RGB")).astype(int) * alpha / 255
        pixels = decode(files.encoded(image, "PNG", transparency=transparency))
        assert np.abs(pixels - expected).max() <= 1

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    @pytest.mark.parametrize("mode", ["LA", "RGBA"])
    def test_alpha_is_composed_over_black(self, files: "Files", mode: str, kind: str) -> None:
        image = Image.fromarray(files.sample_image()).convert(mode)
        image.putalpha(Image.fromarray(files.sample_image()[::-1, :, 1]))
        values = np.array(image).astype(float)
        expected = np.broadcast_to(values[..., :-1] * values[..., -1:] / 255, (PX, PX, 3))
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        assert np.abs(decode(files.encoded(image, kind, **options)) - expected).max() <= 1

    def test_colour_declared_transparent(self, files: "Files") -> None:
        pixels = files.sample_image()
        pixels[:8] = (1, 2, 3)
        data = files.png(pixels, 2, files.chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)), depth=8)
        expected = pixels.copy()
        expected[:8] = 0
        assert (decode(data) == expected).all()
        grey = pixels[..., :1]
        keyed = decode(files.png(grey, 0, files.chunk(b"tRNS", struct.pack(">H", 1)), depth=8))
        assert (keyed == np.where(grey == 1, 0, grey)).all()

    def test_cmyk_and_ycck_jpeg(self, files: "Files") -> None:
        cmyk = Image.fromarray(files.sample_image()).convert("CMYK")
        data = files.encoded(cmyk, "JPEG", quality=95)
        reference = np.array(Image.open(BytesIO(data)).convert("RGB"))
        assert (decode(data) == reference).all()
        assert np.abs(decode(data).astype(int) - files.sample_image()).mean() < 12
        # Transform 2 in the Adobe segment declares the same four channels as YCCK.
        place = data.index(b"Adobe") + 11
        ycck = data[:place] + b"\x02" + data[place + 1 :]
        assert decode(ycck).shape == (PX, PX, 3)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", FORMATS[:2] + FORMATS[3:])
    def test_exif_orientation(self, files: "Files", kind: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = files.encoded(files.sample_image(32, 48), kind, exif=exif)
        expected = np.array(ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB"))
        assert (decode(data) == expected).all()
        header = verify(data)
        assert (header.width, header.height) == ((48, 32) if orientation < 5 else (32, 48))
        assert read_header(data) == header

    def test_orientation_applies_to_16_bit_grey(self, files: "Files") -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        grey = files.deep(1)[:32, :, 0]
        data = files.encoded(grey, "PNG", exif=exif)
        assert (decode(data)[..., 0] == np.rot90(files.eighth(grey), -1)).all()

    def test_unreadable_exif_is_ignored(self, files: "Files") -> None:
        data = files.encoded(
            files.sample_image(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" * 9
        )
        assert decode(data).shape == (PX, PX, 3)

    def test_first_of_many_frames(self, files: "Files") -> None:
        frames = [Image.fromarray(np.full((32, 32, 3), level, np.uint8)) for level in (200, 20)]
        for kind in ("TIFF", "PNG", "WEBP"):
            options = {"lossless": True} if kind == "WEBP" else {}
            data = files.encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
            assert (decode(data) == 200).all(), kind

    def test_icc_profile_is_ignored(self, files: "Files") -> None:
        data = files.encoded(files.sample_image(), "PNG", icc_profile=b"no profile at all")
        assert (decode(data) == files.sample_image()).all()
