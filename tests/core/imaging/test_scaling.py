# SPDX-License-Identifier: Apache-2.0
"""Comparison of the scaling with torch's."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from blemish_core.imaging.geometry import Square
from blemish_core.imaging.preprocessing import Preprocessing
from blemish_core.imaging.samples import grey_as_rgb
from blemish_core.imaging.scaling import scaled

SEED = 20_261


def scaled_by_torch(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    return functional.interpolate(pixels, size=size, mode="bilinear", antialias=True)[0]


def random_image(rng: np.random.Generator, height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [
        (16, 16, (256, 256)),
        (255, 700, (256, 256)),
        (256, 256, (256, 256)),
        (256, 300, (256, 256)),
        (257, 255, (256, 256)),
        (2048, 2448, (256, 256)),
        (900, 17, (320, 320)),
        (4001, 33, (64, 64)),
        (16_384, 16, (16, 16)),
        (320, 800, (256, 640)),
        (300, 800, (320, 160)),
    ],
)
def test_scaling_equals_that_of_torch(height: int, width: int, size: tuple[int, int]) -> None:
    image = random_image(np.random.default_rng(SEED), height, width)
    np.testing.assert_allclose(scaled(image, size), scaled_by_torch(image, size), atol=5e-4, rtol=0)


def test_scaling_equals_that_of_torch_for_random_sizes() -> None:
    rng = np.random.default_rng(SEED)
    for _ in range(60):
        height, width, *size = (int(each) for each in rng.integers(16, 700, 4))
        image = random_image(rng, height, width, int(rng.choice([1, 3])))
        rows, columns = size
        expected = scaled_by_torch(image, (rows, columns))
        np.testing.assert_allclose(
            scaled(image, (rows, columns)),
            expected,
            atol=5e-4,
            rtol=0,
            err_msg=f"{height} x {width} to {size}, seed {SEED}",
        )


def test_uniform_image_stays_uniform() -> None:
    for side in (257, 500, 1000):
        even = np.full((side, side, 1), 255, np.uint8)
        assert float(np.abs(scaled(even, (256, 256)) - 255).max()) < 1e-4


def test_read_only_part_of_an_image_is_scaled() -> None:
    image = random_image(np.random.default_rng(SEED), 400, 400)
    image.setflags(write=False)
    part = image[10:390:2, 5:305]
    for size in ((64, 64), (256, 256), (128, 200)):
        np.testing.assert_allclose(scaled(part, size), scaled_by_torch(part, size), atol=5e-4, rtol=0)


def test_grey_gives_the_input_of_three_equal_channels() -> None:
    preprocessing = Preprocessing(Square(64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    for side in (40, 64, 200):
        grey = random_image(np.random.default_rng(SEED), side, side, 1)[..., 0]
        one, three = preprocessing(grey_as_rgb(grey)), preprocessing(np.stack([grey] * 3, axis=-1))
        assert one.shape == (3, 64, 64)
        np.testing.assert_allclose(one, three, atol=1e-5, rtol=0)
