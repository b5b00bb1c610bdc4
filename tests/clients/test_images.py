# SPDX-License-Identifier: Apache-2.0
from typing import Any

import numpy as np
import pytest

from blemish.v1.image_pb2 import Image
from blemish_client import raw_image
from blemish_client.images import ImageLike, set_image


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
        message("a path")  # type: ignore[arg-type]


def test_size_of_packed_samples_is_sent_as_given() -> None:
    image = raw_image(np.zeros((16, 36), np.uint8), "Mono12p", size=(24, 16))
    assert (image.raw.pixel_format, image.raw.width, image.raw.height) == ("Mono12p", 24, 16)
    assert len(image.raw.data) == 576
    with pytest.raises(ValueError, match="give pixel_format"):
        raw_image(bytes(576), size=(24, 16))
