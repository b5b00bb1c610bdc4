# SPDX-License-Identifier: Apache-2.0
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from blemish_core.errors import InvalidImage
from blemish_core.images import ImageLimits, check, decode, read_mask, thumbnail

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
SEED = 20_260
PX = 48


def picture(height: int = PX, width: int = PX) -> NDArray[np.uint8]:
    """A smooth picture whose four corners differ, with some noise."""
    rng = np.random.default_rng(SEED)
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 200 // width, y * 200 // height, (x + y) * 100 // (width + height)], axis=-1)
    return (base + rng.integers(0, 20, base.shape)).astype(np.uint8)


def encoded(image: Image.Image | NDArray[Any], kind: str, **options: Any) -> bytes:
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: NDArray[Any], colour: int, *extra: bytes, depth: int = 16, size: Any = None) -> bytes:
    """A PNG of (H, W, C) samples, big endian as they are, with the header's size overruled by ``size``."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2" if depth == 16 else ">u1").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            *extra,
            chunk(b"IDAT", zlib.compress(raw)),
            chunk(b"IEND", b""),
        ]
    )


def tiff(samples: NDArray[Any], order: str, photometric: int, **tags: Any) -> bytes:
    """An uncompressed TIFF in one strip; ``tags`` of the form t322=... are added or overrule."""
    height, width, channels = samples.shape
    bits = samples.dtype.itemsize * 8
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    entries = {256: width, 257: height, 258: [bits] * channels, 259: 1, 262: photometric, 273: 8}
    entries |= {277: channels, 278: height, 279: len(data), 284: 1, 339: [kind] * channels}
    entries |= {int(name[1:]): value for name, value in tags.items()}
    directory, late = b"", b""
    start = 8 + len(data) + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        values = value if isinstance(value, list) else [value]
        size, code = ("H", 3) if isinstance(value, list) else ("I", 4)
        packed = struct.pack(f"{order}{len(values)}{size}", *values)
        if len(packed) > 4:
            late, packed = late + packed, struct.pack(f"{order}I", start + len(late))
        directory += struct.pack(f"{order}HHI", tag, code, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(entries)) + directory + b"\0\0\0\0" + late


def eighth(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """16 bits to 8, in floating point."""
    return np.floor(samples.astype(np.float64) * 255 / 65_535 + 0.5).astype(np.uint8)


def deep(channels: int) -> NDArray[np.uint16]:
    rng = np.random.default_rng(SEED)
    return rng.integers(0, 65_536, (PX, PX, channels)).astype(np.uint16)


class TestWhatIsAccepted:
    @pytest.mark.parametrize("kind", FORMATS)
    def test_every_format(self, kind: str) -> None:
        pixels = decode(
            encoded(picture(40, 56), kind, **({"lossless": True} if kind == "WEBP" else {}))
        )
        assert pixels.shape == (40, 56, 3)
        assert pixels.dtype == np.uint8
        assert pixels.flags.writeable and pixels.flags.c_contiguous
        allowed = 40 if kind == "JPEG" else 0
        assert np.abs(pixels.astype(int) - picture(40, 56)).max() <= allowed

    @pytest.mark.parametrize("kind", FORMATS)
    def test_check_says_what_it_is(self, kind: str) -> None:
        header = check(encoded(picture(40, 56), kind))
        assert (header.format, header.width, header.height) == (kind, 56, 40)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
    def test_compressed_tiff(self, compression: str) -> None:
        pixels = decode(encoded(picture(), "TIFF", compression=compression))
        assert np.abs(pixels.astype(int) - picture()).max() <= (60 if compression == "jpeg" else 0)

    def test_grey(self) -> None:
        grey = picture()[..., 0]
        for data in (encoded(grey, "PNG"), encoded(grey, "BMP"), encoded(grey, "TIFF")):
            assert (decode(data) == grey[..., None]).all()

    def test_one_bit(self) -> None:
        bits = picture()[..., 0] > 90
        for kind in ("PNG", "BMP", "TIFF"):
            assert (decode(encoded(Image.fromarray(bits), kind)) == bits[..., None] * 255).all()

    def test_palette(self) -> None:
        image = Image.fromarray(picture()).quantize(16)
        assert (decode(encoded(image, "PNG")) == np.array(image.convert("RGB"))).all()

    @pytest.mark.parametrize("transparency", [3, bytes([255, 128, 0, 7])])
    def test_palette_with_transparency(self, transparency: int | bytes) -> None:
        image = Image.fromarray(picture()).quantize(4)
        alphas = [255] * 4
        if isinstance(transparency, int):
            alphas[transparency] = 0
        else:
            alphas = list(transparency)
        alpha = np.array(alphas)[np.array(image)][..., None]
        expected = np.array(image.convert("RGB")).astype(int) * alpha / 255
        pixels = decode(encoded(image, "PNG", transparency=transparency))
        assert np.abs(pixels - expected).max() <= 1

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    @pytest.mark.parametrize("mode", ["LA", "RGBA"])
    def test_alpha_is_laid_over_black(self, mode: str, kind: str) -> None:
        image = Image.fromarray(picture()).convert(mode)
        image.putalpha(Image.fromarray(picture()[::-1, :, 1]))
        values = np.array(image).astype(float)
        expected = np.broadcast_to(values[..., :-1] * values[..., -1:] / 255, (PX, PX, 3))
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        assert np.abs(decode(encoded(image, kind, **options)) - expected).max() <= 1

    def test_colour_declared_transparent(self) -> None:
        pixels = picture()
        pixels[:8] = (1, 2, 3)
        data = png(pixels, 2, chunk(b"tRNS", struct.pack(">3H", 1, 2, 3)), depth=8)
        expected = pixels.copy()
        expected[:8] = 0
        assert (decode(data) == expected).all()
        grey = pixels[..., :1]
        keyed = decode(png(grey, 0, chunk(b"tRNS", struct.pack(">H", 1)), depth=8))
        assert (keyed == np.where(grey == 1, 0, grey)).all()

    def test_cmyk_and_ycck_jpeg(self) -> None:
        cmyk = Image.fromarray(picture()).convert("CMYK")
        data = encoded(cmyk, "JPEG", quality=95)
        reference = np.array(Image.open(BytesIO(data)).convert("RGB"))
        assert (decode(data) == reference).all()
        assert np.abs(decode(data).astype(int) - picture()).mean() < 12
        # The Adobe segment's transform 2 says that the same four channels are YCCK.
        place = data.index(b"Adobe") + 11
        ycck = data[:place] + b"\x02" + data[place + 1 :]
        assert decode(ycck).shape == (PX, PX, 3)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", FORMATS[:2] + FORMATS[3:])
    def test_exif_orientation(self, kind: str, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(picture(32, 48), kind, exif=exif)
        expected = np.array(ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB"))
        assert (decode(data) == expected).all()
        header = check(data)
        assert (header.width, header.height) == ((48, 32) if orientation < 5 else (32, 48))

    def test_deep_grey_is_turned_too(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        grey = deep(1)[:32, :, 0]
        data = encoded(grey, "PNG", exif=exif)
        assert (decode(data)[..., 0] == np.rot90(eighth(grey), -1)).all()

    def test_unreadable_exif_is_no_reason_to_refuse(self) -> None:
        data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" * 9)
        assert decode(data).shape == (PX, PX, 3)

    def test_first_of_many_frames(self) -> None:
        frames = [Image.fromarray(np.full((32, 32, 3), level, np.uint8)) for level in (200, 20)]
        for kind in ("TIFF", "PNG", "WEBP"):
            options = {"lossless": True} if kind == "WEBP" else {}
            data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
            assert (decode(data) == 200).all(), kind

    def test_icc_profile_is_ignored(self) -> None:
        data = encoded(picture(), "PNG", icc_profile=b"no profile at all")
        assert (decode(data) == picture()).all()


class TestDepth:
    def test_grey_png(self) -> None:
        every = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
        assert (decode(encoded(every, "PNG")) == eighth(every)[..., None]).all()

    @pytest.mark.parametrize("order", "<>")
    def test_grey_tiff(self, order: str) -> None:
        grey = deep(1)
        assert (decode(tiff(grey, order, 1)) == eighth(grey)).all()

    def test_white_is_zero(self) -> None:
        grey = deep(1)
        assert (decode(tiff(grey, "<", 0)) == eighth(65_535 - grey)).all()

    def test_transparent_grey(self) -> None:
        grey = deep(1)
        grey[:4] = 40_000
        data = png(grey, 0, chunk(b"tRNS", struct.pack(">H", 40_000)))
        assert (decode(data) == eighth(np.where(grey == 40_000, 0, grey))).all()

    def test_colour_png(self) -> None:
        colour = deep(3)
        assert (decode(png(colour, 2)) == eighth(colour)).all()

    def test_transparent_colour(self) -> None:
        colour = deep(3)
        key = colour[5, 5]
        expected = colour.copy()
        expected[5, 5] = 0
        assert (decode(png(colour, 2, chunk(b"tRNS", struct.pack(">3H", *key)))) == eighth(expected)).all()

    @pytest.mark.parametrize(("colour", "channels"), [(4, 2), (6, 4)])
    def test_alpha_png(self, colour: int, channels: int) -> None:
        values = deep(channels)
        expected = values[..., :-1].astype(float) * values[..., -1:] / 65_535 * 255 / 65_535
        assert np.abs(decode(png(values, colour)) - expected).max() < 0.51

    @pytest.mark.parametrize("order", "<>")
    def test_colour_tiff(self, order: str) -> None:
        colour = deep(3)
        assert (decode(tiff(colour, order, 2)) == eighth(colour)).all()

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
    def test_compressed_grey_tiff(self, compression: str) -> None:
        grey = deep(1)[..., 0]
        assert (decode(encoded(grey, "TIFF", compression=compression))[..., 1] == eighth(grey)).all()

    def test_whole_numbers_that_fit_16_bits(self) -> None:
        values = deep(1).astype(np.int32)
        assert (decode(tiff(values, "<", 1)) == eighth(values)).all()

    def test_whole_numbers_that_do_not(self) -> None:
        for odd in (-1, 65_536):
            values = deep(1).astype(np.int32)
            values[0, 0] = odd
            with pytest.raises(InvalidImage, match=r"32-bit samples from .* 8 or 16 bits"):
                decode(tiff(values, "<", 1))

    def test_shares_of_white(self) -> None:
        values = np.linspace(0, 1, PX * PX, dtype=np.float32).reshape(PX, PX, 1)
        assert np.abs(decode(tiff(values, "<", 1)) - values * 255).max() < 0.51

    @pytest.mark.parametrize("odd", [1.5, -0.1, np.nan, np.inf])
    def test_floats_of_unknown_scale(self, odd: float) -> None:
        values = np.full((PX, PX, 1), 0.5, np.float32)
        values[3, 3] = odd
        with pytest.raises(InvalidImage, match="does not say what is white"):
            decode(tiff(values, "<", 1))

    def test_separate_planes(self) -> None:
        with pytest.raises(InvalidImage, match="interleaved"):
            decode(tiff(deep(3), "<", 2, t284=2))


class TestWhatIsRefused:
    def test_nothing(self) -> None:
        with pytest.raises(InvalidImage, match="empty"):
            decode(b"")

    @pytest.mark.parametrize("data", [b"x", b"GIF89a", b"%PDF-1.7", b"RIFF1234WAVEfmt ", b"\0" * 4096])
    def test_not_an_image(self, data: bytes) -> None:
        with pytest.raises(InvalidImage, match="not a JPEG, PNG, BMP, TIFF or WebP"):
            decode(data)

    @pytest.mark.parametrize("kind", ["GIF", "PPM", "ICO", "TGA", "JPEG2000", "EPS"])
    def test_other_plugins_are_not_even_asked(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encoded(picture(), kind)

        def asked(*_: object) -> None:
            raise AssertionError("Pillow was left to choose a plugin")

        for entry in ("open", "init", "preinit"):
            monkeypatch.setattr(Image, entry, asked)
        with pytest.raises(InvalidImage, match="convert it"):
            decode(data)

    @pytest.mark.parametrize("kind", FORMATS)
    def test_truncated(self, kind: str) -> None:
        data = encoded(picture(), kind)
        ends = {2, 3, 9, 16, 30, *range(len(data) // 7, len(data), len(data) // 7)}
        ends |= {len(data) - 1, len(data) - 2, len(data) - 40}
        for end in ends:
            with pytest.raises(InvalidImage, match="send the whole"):
                decode(data[:end])
                print("accepted", end, "of", len(data))

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
    def test_truncated_strip(self, compression: str) -> None:
        data = encoded(picture(), "TIFF", compression=compression)
        (directory,) = struct.unpack("<I", data[4:8])
        if directory > 100:  # the directory comes last: take the end of the pixels away instead
            data = data.replace(data[directory - 400 : directory], b"", 1)
        with pytest.raises(InvalidImage):
            decode(data[:-200])

    def test_a_flipped_bit_in_a_png(self) -> None:
        data = bytearray(encoded(picture(), "PNG"))
        data[len(data) // 2] ^= 4
        with pytest.raises(InvalidImage, match="cannot be decoded"):
            decode(bytes(data))

    def test_too_small(self) -> None:
        with pytest.raises(InvalidImage, match=r"1 x 1 px.*at least 16"):
            decode(encoded(picture(1, 1), "PNG"))
        with pytest.raises(InvalidImage, match=r"100 x 15 px"):
            decode(encoded(picture(15, 100), "JPEG"))

    def test_too_many_bytes(self) -> None:
        data = encoded(picture(), "BMP")
        with pytest.raises(InvalidImage, match=rf"{len(data)} bytes.*{len(data) - 1}.*MAX_IMAGE_BYTES"):
            decode(data, ImageLimits(max_bytes=len(data) - 1))
        assert decode(data, ImageLimits(max_bytes=len(data))).shape == (PX, PX, 3)

    def test_too_long(self) -> None:
        data = encoded(picture(20, 101), "PNG")
        with pytest.raises(InvalidImage, match=r"101 x 20 px.*at most 100"):
            decode(data, ImageLimits(max_side=100))

    def test_too_many_pixels(self) -> None:
        data = encoded(picture(20, 100), "PNG")
        with pytest.raises(InvalidImage, match=r"100 x 20 = 2000 pixels.*1999.*MAX_IMAGE_PIXELS"):
            decode(data, ImageLimits(max_pixels=1999))
        assert decode(data, ImageLimits(max_pixels=2000)).shape == (20, 100, 3)

    def test_limits_beyond_what_pillow_decodes(self) -> None:
        with pytest.raises(ValueError, match="BLEMISH_MAX_IMAGE_PIXELS"):
            ImageLimits(max_pixels=200_000_000)

    def test_scans_without_end(self) -> None:
        data = encoded(picture(), "JPEG", progressive=True)
        assert decode(data).shape == (PX, PX, 3)
        start = data.rindex(b"\xff\xda")
        scan, end = data[start:-2], data[-2:]
        with pytest.raises(InvalidImage, match="100 scans"):
            decode(data[:start] + scan * 200 + end)

    @pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
    def test_bomb_in_the_metadata(self, kind: bytes) -> None:
        bomb = chunk(kind, b"name\0\0" + zlib.compress(b"\0" * (5 << 20)))
        with pytest.raises(InvalidImage, match="too large"):
            decode(png(picture(), 2, bomb, depth=8))

    def test_many_texts(self) -> None:
        text = chunk(b"zTXt", b"name\0\0" + zlib.compress(b"x" * PngImagePlugin.MAX_TEXT_CHUNK))
        with pytest.raises(InvalidImage, match="text"):
            decode(png(picture(), 2, *[text] * 70, depth=8))

    def test_colours_that_pillow_cannot_convert(self) -> None:
        lab = tiff(picture(), "<", 8)
        with pytest.raises(InvalidImage, match="cannot be decoded"):
            decode(lab)

    def test_memory_runs_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(Image.core, "new", full)
        monkeypatch.setattr(Image.core, "fill", full)
        with pytest.raises(InvalidImage, match="memory"):
            decode(encoded_before)


encoded_before = encoded(picture(), "PNG")

BOMBS = """
import resource, sys
from blemish_core.errors import InvalidImage
from blemish_core.images import check, decode, read_mask, thumbnail

with open("/proc/self/statm") as status:
    used = int(status.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)
data = sys.stdin.buffer.read()
for function in (decode, check, read_mask, thumbnail):
    try:
        function(data)
    except InvalidImage as error:
        print(error)
    else:
        sys.exit(f"{function.__name__} accepts it")
"""


def _patched(data: bytes, at: int, fields: str, *values: int) -> bytes:
    packed = struct.pack(fields, *values)
    return data[:at] + packed + data[at + len(packed) :]


def _png_bomb() -> bytes:
    return png(picture(), 2, depth=8, size=(20_000, 20_000))


def _png_zip_bomb() -> bytes:
    """All the pixels are there: 9000 x 9000, in 80 kB."""
    return png(np.zeros((9000, 9000), np.uint8), 0, depth=8)


def _jpeg_bomb() -> bytes:
    data = encoded(picture(), "JPEG")
    return _patched(data, data.index(b"\xff\xc0") + 5, ">HH", 16_000, 16_000)


def _bmp_bomb() -> bytes:
    return _patched(encoded(picture(), "BMP"), 18, "<II", 16_000, 16_000)


def _tiff_bomb() -> bytes:
    return tiff(picture(), "<", 2, t256=16_000, t257=16_000)


def _tiff_tile_bomb() -> bytes:
    return tiff(picture(), "<", 2, t259=5, t322=16_000, t323=16_000, t324=8, t325=99)


def _webp_bomb() -> bytes:
    image = Image.new("RGBA", (32, 32), (1, 2, 3, 4))
    data = encoded(image, "WEBP", exif=b"Exif\0\0")
    assert data[12:16] == b"VP8X"
    return _patched(data, 24, "<HBHB", 15_999, 0, 15_999, 0)


def _webp_lossless_bomb() -> bytes:
    data = encoded(picture(), "WEBP", lossless=True)
    assert data[12:16] == b"VP8L"
    return _patched(data, 21, "<I", 15_999 | 15_999 << 14)


def _webp_lossy_bomb() -> bytes:
    data = encoded(picture(), "WEBP")
    assert data[12:16] == b"VP8 "
    return _patched(data, 26, "<HH", 16_000, 16_000)


class TestHostility:
    @pytest.mark.parametrize(
        "bomb",
        [
            _png_bomb,
            _png_zip_bomb,
            _jpeg_bomb,
            _bmp_bomb,
            _tiff_bomb,
            _tiff_tile_bomb,
            _webp_bomb,
            _webp_lossless_bomb,
            _webp_lossy_bomb,
        ],
    )
    def test_a_bomb_is_refused_in_little_memory(self, bomb: Callable[[], bytes]) -> None:
        command = [sys.executable, "-W", "error", "-c", BOMBS]
        done = subprocess.run(command, input=bomb(), capture_output=True, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr == b""
        reasons = done.stdout.decode().splitlines()
        assert len(reasons) == 4
        for reason in reasons:
            assert "pixels" in reason or "at most 16384" in reason, reason

    @pytest.mark.parametrize("kind", FORMATS)
    def test_damaged_bytes_never_raise_anything_else(self, kind: str) -> None:
        print("seed", SEED)
        dice = random.Random(SEED)
        exif = Image.Exif()
        exif[0x0112] = 6
        options: dict[str, Any] = {} if kind == "BMP" else {"exif": exif}
        sources = [encoded(picture(24, 32), kind, **options)]
        if kind == "TIFF":
            sources += [encoded(picture(24, 32), "TIFF", compression="tiff_lzw"), tiff(deep(3), ">", 2)]
        refused = 0
        for turn in range(400):
            data = bytearray(dice.choice(sources))
            for _ in range(dice.choice((1, 2, 8))):
                # Headers matter more than pixels.
                place = (
                    dice.randrange(min(len(data), 200))
                    if dice.random() < 0.7
                    else dice.randrange(len(data))
                )
                data[place] = dice.choice((0, 1, 127, 255, dice.randrange(256)))
            if dice.random() < 0.2:
                del data[dice.randrange(len(data)) :]
            function = (decode, check, read_mask, thumbnail)[turn % 4]
            try:
                function(
                    bytes(data), ImageLimits(max_pixels=1 << 20)
                ) if function is not thumbnail else function(bytes(data))
            except InvalidImage as error:
                assert str(error)
                refused += 1
        assert refused > 40

    def test_pillows_warnings_stay_inside(self) -> None:
        data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0" * 9)
        with ThreadPoolExecutor(4) as pool:
            assert len(list(pool.map(decode, [data] * 40))) == 40
        with pytest.warns(UserWarning, match="ours"):  # others are still heard
            warnings.warn("ours", stacklevel=1)

    def test_pillows_own_limit_is_left_alone(self) -> None:
        before = Image.MAX_IMAGE_PIXELS
        with pytest.raises(InvalidImage):
            decode(_png_bomb())
        assert before == Image.MAX_IMAGE_PIXELS


class TestThumbnail:
    def test_fits_and_is_a_jpeg(self) -> None:
        small = thumbnail(encoded(picture(100, 400), "PNG"), 64)
        with Image.open(BytesIO(small)) as image:
            assert image.format == "JPEG"
            assert image.size == (64, 16)

    def test_is_never_larger_than_the_image(self) -> None:
        with Image.open(BytesIO(thumbnail(encoded(picture(), "PNG")))) as image:
            assert image.size == (PX, PX)


class TestMask:
    def test_anything_but_zero_is_a_defect(self) -> None:
        mask = np.zeros((PX, PX), np.uint8)
        mask[5:9, 4:7] = 1
        for data in (encoded(mask, "PNG"), encoded(mask * 255, "BMP"), encoded(mask > 0, "PNG")):
            found = read_mask(data)
            assert found.dtype == np.bool_
            assert (found == (mask > 0)).all()

    def test_deep_and_coloured_ones(self) -> None:
        mask = np.zeros((PX, PX, 3), np.uint16)
        mask[7, 8, 1] = 1  # would be nothing in 8 bits
        expected = mask.any(axis=2)
        assert (read_mask(png(mask, 2)) == expected).all()
        assert (read_mask(png(mask[..., 1:2], 0)) == expected).all()
        assert (read_mask(tiff(mask[..., 1:2], ">", 1)) == expected).all()

    @pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
    def test_lossy_ones_are_refused(self, kind: str) -> None:
        with pytest.raises(InvalidImage, match="losses"):
            read_mask(encoded(picture(), kind))
