# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a dataset of bright squares on a dark surface, and a detector of brightness."""

from collections.abc import Callable, Collection, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from blemish_core.calibration import Calibration
from blemish_core.datasets import DatasetStore
from blemish_core.detectors.base import Prediction, silent
from blemish_core.evaluation.evaluate import Evaluation, ImageSource, evaluate
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.frame_mask import FrameMask, MaskedFrame
from blemish_core.imaging.geometry import Square
from blemish_core.imaging.preprocessing import Preprocessing

SIDE = 32


class BrightnessRuntime:
    """The runtime that ``Brightness`` reports."""

    name = "torch"


class Brightness:
    """A detector whose anomaly map is the red channel, from 0 to 1."""

    name = "brightness"
    input_size = SIDE

    runtime = BrightnessRuntime()
    mask: FrameMask | None = None

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        preprocessing = Preprocessing(Square(SIDE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        return torch.from_numpy(preprocessing(image))

    def prepare_masked(self, frame: MaskedFrame) -> Tensor:
        return self.prepare(frame.pixels)

    def predict(self, inputs: Sequence[Tensor]) -> list[Prediction]:
        maps = torch.stack(list(inputs))[:, 0].numpy()
        return [Prediction(float(each.max()), each, np.ones(1, np.float32)) for each in maps]


class NativeBrightness(Brightness):
    """A detector whose map has half the sides of the frame, and so another shape for each size."""

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        rows, columns, _ = image.shape
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
        return functional.interpolate(pixels[None], size=(rows // 2, columns // 2), mode="area")[0]


def encoded(pixels: NDArray[Any], kind: str = "PNG") -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def surface(shade: int, spot: int = 0, side: int = 48) -> NDArray[np.uint8]:
    """Return a grey surface (side, side), optionally with a square of another shade."""
    pixels = np.full((side, side), shade, np.uint8)
    if spot:
        pixels[side // 4 : side // 2, side // 4 : side // 2] = spot
    return pixels


def spot_mask(side: int = 48) -> bytes:
    return encoded(surface(0, 255, side))


@pytest.fixture
def store(tmp_path: Path) -> DatasetStore:
    datasets = DatasetStore(tmp_path / "datasets", ImageLimits())
    datasets.create("tile", "")
    return datasets


@pytest.fixture
def calibration() -> Calibration:
    return Calibration.of([0.2, 0.25, 0.3], [0.2, 0.25, 0.3], 0.25)


Measure = Callable[..., Evaluation]


@pytest.fixture
def measure(store: DatasetStore, calibration: Calibration) -> Measure:
    """Return a function that evaluates on a dataset and appends warnings to a list."""

    def run(
        warnings: list[str] | None = None,
        dataset: str = "tile",
        detector: Brightness | None = None,
        learned: Collection[str] = (),
    ) -> Evaluation:
        collected: list[str] = [] if warnings is None else warnings
        evaluation = evaluate(
            detector or Brightness(),  # type: ignore[arg-type]
            calibration,
            ImageSource(store, ImageLimits(), dataset, learned=learned),
            "cpu",
            silent,
            collected.append,
        )
        assert evaluation is not None
        if warnings is None:
            assert collected == []
        return evaluation

    return run


@pytest.fixture
def native_brightness() -> NativeBrightness:
    return NativeBrightness()


@pytest.fixture
def spots(store: DatasetStore) -> DatasetStore:
    """Add six good images, the last one bright, and six with spots and masks, the last one faint."""
    for number, shade in enumerate((20, 30, 40, 50, 60, 120)):
        store.add("tile", f"test/good/{number:03}.png", encoded(surface(shade)))
    for number, spot in enumerate((200, 210, 220, 230, 240, 55)):
        store.add("tile", f"test/spot/{number:03}.png", encoded(surface(30 + number, spot)))
        store.add("tile", f"ground_truth/spot/{number:03}_mask.png", spot_mask())
    return store
