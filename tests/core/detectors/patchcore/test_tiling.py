# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from blemish_core.detectors.patchcore import tiling
from blemish_core.detectors.patchcore.tiling import tiled_features


class Pooling:
    """A runtime whose features are the mean pixels of 8 x 8; it keeps the shapes of its calls."""

    name = "pooling"
    bytes = 0

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        self.shapes.append(tuple(images.shape))
        return (functional.avg_pool2d(images, 8),)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiling, "LONGEST", 128)
    monkeypatch.setattr(tiling, "OVERLAP", 32)


@pytest.mark.parametrize(("height", "width"), [(400, 528), (64, 2000 - 2000 % 16), (1024, 64), (144, 144)])
def test_tiles_give_every_patch_once_and_in_place(height: int, width: int) -> None:
    image = torch.rand(3, height, width)
    runtime = Pooling()
    (features,) = tiled_features(runtime, [image], torch)
    torch.testing.assert_close(features, functional.avg_pool2d(image[None], 8)[0])
    assert len(runtime.shapes) > 1
    assert len(set(runtime.shapes)) == 1  # tiles of one size
    assert all(rows * columns <= 128**2 for _, _, rows, columns in runtime.shapes)


def test_inputs_of_one_size_are_batched_up_to_the_pixels_of_a_tile() -> None:
    inputs = [torch.rand(3, 64, 64) for _ in range(6)] + [torch.rand(3, 64, 128)]
    runtime = Pooling()
    features = list(tiled_features(runtime, inputs, torch))
    assert [shape[0] for shape in runtime.shapes] == [4, 2, 1]
    for image, found in zip(inputs, features, strict=True):
        torch.testing.assert_close(found, functional.avg_pool2d(image[None], 8)[0])


def test_failure_in_a_tile_is_raised() -> None:
    class Failing(Pooling):
        def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(tiled_features(Failing(), [torch.rand(3, 400, 400)], torch))
