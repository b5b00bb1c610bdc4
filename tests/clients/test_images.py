# SPDX-License-Identifier: Apache-2.0
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from blemish.v1.image_pb2 import Image
from blemish_client import raw_image
from blemish_client.images import ImageLike, MaskLike, mask_file, set_image


def message(image: ImageLike) -> Image:
    made = Image()
    set_image(made, image)
    return made


@pytest.mark.parametrize(
    "encoded", [b"png", bytearray(b"png"), memoryview(b"png"), np.frombuffer(b"png", "u1")]
)
def test_one_dimension_of_bytes_is_an_encoded_image(encoded: Any) -> None:
    assert message(encoded) == Image(encoded=b"png")


@pytest.mark.parametrize(
    ("shape", "kind", "pixel_format"),
    [
        ((2, 3), "u1", "Mono8"),
        ((2, 3), "u2", "Mono16"),
        ((2, 3, 1), "u1", "Mono8"),
        ((2, 3, 3), "u1", "RGB8"),
        ((2, 3, 4), "u1", "RGBa8"),
    ],
)
def test_format_of_an_array_follows_shape_and_type(
    shape: tuple[int, ...], kind: str, pixel_format: str
) -> None:
    samples = np.arange(np.prod(shape), dtype=kind).reshape(shape)
    raw = message(samples).raw
    assert (raw.pixel_format, raw.width, raw.height, raw.stride) == (pixel_format, 3, 2, 0)
    assert raw.data == samples.tobytes()


def test_samples_of_a_view_are_sent_row_by_row() -> None:
    every_other = np.arange(24, dtype="u1").reshape(4, 6)[::2, ::-1]
    assert message(every_other).raw.data == every_other.tobytes()


def test_given_format_and_region_are_sent() -> None:
    image = raw_image(np.zeros((4, 6), "u2"), "Mono12", region=(1, 2, 3, 2))
    assert image.raw.pixel_format == "Mono12"
    assert (image.region.left, image.region.top, image.region.width, image.region.height) == (1, 2, 3, 2)
    assert message(image) == image


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((2, 3), "f4"),
        np.zeros((2, 3), bool),
        np.zeros((2, 3), ">u2"),
        np.zeros((2, 3, 2), "u1"),
        np.zeros((2, 3, 3), "u2"),
        np.zeros((1, 2, 3, 3), "u1"),
        np.zeros(4, "u2"),
    ],
    ids=lambda samples: f"{samples.shape} {samples.dtype}",
)
def test_other_arrays_are_rejected_with_the_remedy(samples: Any) -> None:
    with pytest.raises(ValueError, match=r"the array has the shape .*use \(height, width\) of uint8"):
        message(samples)


def test_objects_without_samples_are_rejected() -> None:
    with pytest.raises(TypeError):
        message(3.5)  # type: ignore[arg-type]


def test_paths_are_files_with_images_or_arrays(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    samples = np.arange(6, dtype="u1").reshape(2, 3)
    np.save(tmp_path / "a.npy", samples)
    assert message(tmp_path / "a.png") == message(str(tmp_path / "a.png")) == Image(encoded=b"png")
    assert message(tmp_path / "a.npy") == raw_image(samples)
    with pytest.raises(FileNotFoundError):
        message(tmp_path / "missing.png")


@pytest.mark.parametrize(
    ("mode", "pixel_format"),
    [
        ("1", "Mono8"),
        ("L", "Mono8"),
        ("P", "RGB8"),
        ("LA", "RGBa8"),
        ("CMYK", "RGB8"),
        ("RGB", "RGB8"),
        ("RGBA", "RGBa8"),
        ("I;16", "Mono16"),
        ("I", "Mono16"),
        ("I;16B", "Mono16"),
    ],
)
def test_image_of_pillow_is_sent_raw(mode: str, pixel_format: str) -> None:
    raw = message(PilImage.new(mode, (3, 2))).raw
    assert (raw.pixel_format, raw.width, raw.height) == (pixel_format, 3, 2)
    assert len(raw.data) == 6 * {"Mono8": 1, "Mono16": 2, "RGB8": 3, "RGBa8": 4}[pixel_format]


def test_samples_of_pillow_are_little_endian() -> None:
    assert message(PilImage.new("I;16B", (1, 1), 0x0102)).raw.data == b"\2\1"
    with pytest.raises(ValueError, match="levels of 70000 to 70000; use 0 to 65535"):
        message(PilImage.new("I", (1, 1), 70000))


def test_floats_of_pillow_are_sent_as_a_file() -> None:
    with PilImage.open(io.BytesIO(message(PilImage.new("F", (3, 2), 7.5)).encoded)) as sent:
        assert (sent.format, sent.mode, sent.getpixel((0, 0))) == ("TIFF", "F", 7.5)


def test_image_of_pillow_is_sent_upright() -> None:
    out = io.BytesIO()
    exif = PilImage.Exif()
    exif[274] = 6  # the camera was turned by 90 degrees
    PilImage.new("L", (6, 4)).save(out, "JPEG", exif=exif)
    with PilImage.open(out) as turned:
        raw = message(turned).raw
    assert (raw.width, raw.height) == (4, 6)


HALF = np.array([[False, True, True]] * 2)


@pytest.mark.parametrize(
    "mask",
    [
        HALF,
        HALF.astype("u1"),
        HALF.astype("u1") * 255,
        PilImage.fromarray(HALF),
        PilImage.fromarray(HALF.astype("u1") * 255).convert("RGB"),
        raw_image(HALF.astype("u1") * 255),
    ],
    ids=["bool", "0 and 1", "levels", "pillow", "pillow rgb", "message"],
)
def test_masks_become_pictures(mask: MaskLike) -> None:
    with PilImage.open(io.BytesIO(mask_file(mask))) as png:
        assert png.format == "PNG"
        assert np.array_equal(np.asarray(png), HALF * 255)


def test_file_of_a_mask_is_sent_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mask.json").write_bytes(b"{}")
    assert mask_file(tmp_path / "mask.json") == mask_file(str(tmp_path / "mask.json")) == b"{}"
    assert mask_file(b"content") == mask_file(Image(encoded=b"content")) == b"content"


def test_mask_of_several_channels_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"the mask has the shape \(2, 3, 3\)"):
        mask_file(np.zeros((2, 3, 3), "u1"))


def test_size_of_packed_samples_is_sent_as_given() -> None:
    image = raw_image(np.zeros((16, 36), np.uint8), "Mono12p", size=(24, 16))
    assert (image.raw.pixel_format, image.raw.width, image.raw.height) == ("Mono12p", 24, 16)
    assert len(image.raw.data) == 576
    with pytest.raises(ValueError, match="give pixel_format"):
        raw_image(bytes(576), size=(24, 16))
