# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> DatasetStore:
    return DatasetStore(root, ImageLimits())


@pytest.fixture
def draw() -> Callable[..., bytes]:
    """Return a function that draws a small PNG, a different one for each number."""

    def drawn(number: int = 0, side: int = 24) -> bytes:
        pixels = np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)
        out = BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        return out.getvalue()

    return drawn
