# SPDX-License-Identifier: Apache-2.0
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import InvalidRequest
from blemish_server.converters.inference import parse_images

LIMITS = ImageLimits()


def request(shape: list[int], raw: bytes | None = None, **tensor: Any) -> Any:
    return pb.ModelInferRequest(
        inputs=[{"name": "image", "datatype": "UINT8", "shape": shape} | tensor],
        raw_input_contents=[] if raw is None else [raw],
    )


@pytest.mark.parametrize("shape", [(3, 48, 64, 3), (2, 48, 64, 1), (48, 64, 3), (48, 64, 1)])
def test_pixels_of_a_tensor_arrive_unchanged(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    batch = pixels.reshape((-1, *shape[-3:]))

    for message in (
        request([*shape], pixels.tobytes()),
        request([*shape], contents={"uint_contents": pixels.ravel().tolist()}),
    ):
        images = parse_images(message)

        assert len(images) == len(batch)
        for image, expected in zip(images, batch, strict=True):
            np.testing.assert_array_equal(image.pixels(LIMITS), np.broadcast_to(expected, (48, 64, 3)))


@pytest.mark.parametrize(
    ("shape", "size", "reason"),
    [
        ([], 0, "is not one of images"),
        ([64, 64], 4096, "is not one of images"),
        ([1, 1, 64, 64, 3], 12288, "is not one of images"),
        ([64, 64, 4], 16384, "is not one of images"),
        ([3, 64, 64], 12288, "is not one of images"),
        ([0, 64, 64, 3], 0, "is not one of images"),
        ([65, 1, 1, 3], 195, "is not one of images"),
        ([-1, 64, 64, 3], 12288, "is not one of images"),
        ([64, -64, 3], 12288, "is not one of images"),
        ([64, 64, 3], 12287, "needs 12288 bytes, and the tensor has 12287"),
        ([1 << 62, 1 << 62, 3], 12288, "bytes, and the tensor has 12288"),
    ],
)
def test_tensor_that_is_not_of_images_is_rejected(shape: list[int], size: int, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        parse_images(request(shape, bytes(size)))


def test_values_above_eight_bits_are_rejected() -> None:
    with pytest.raises(InvalidRequest, match="above 255"):
        parse_images(request([1, 1, 3], contents={"uint_contents": [1, 2, 256]}))


def test_shared_memory_needs_a_size_and_a_server_that_has_it() -> None:
    named = {"shared_memory_region": {"string_param": "frames"}}
    with pytest.raises(InvalidRequest, match="needs the parameter shared_memory_byte_size"):
        parse_images(request([1, 1, 3], parameters=named))
    sized = named | {"shared_memory_byte_size": {"int64_param": 3}}
    with pytest.raises(InvalidRequest, match="is not available here"):
        parse_images(request([1, 1, 3], parameters=sized))
