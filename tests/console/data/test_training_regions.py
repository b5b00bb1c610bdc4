# SPDX-License-Identifier: Apache-2.0
import io

import numpy as np
from PIL import Image

from blemish_console.data.training_regions import ignored_share, mask_options
from blemish_console.drawing.shapes import Layer, Shape, Sketch, Tool


def test_nothing_drawn_is_no_option() -> None:
    sketch = Sketch(20, 10)
    assert mask_options(sketch, "train/good/0.png", moves=True) == {}
    assert ignored_share(sketch) == 0


def test_ignored_region_is_black_in_the_mask_of_the_training() -> None:
    sketch = Sketch(20, 10)
    sketch.add(Shape(Tool.BOX, ((0, 0), (5, 10)), Layer.IGNORE))
    options = mask_options(sketch, "train/good/0.png", moves=False)
    assert set(options) == {"mask"}
    content = options["mask"]
    assert isinstance(content, bytes)
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (20, 10)
        white = np.asarray(image.convert("L")) > 0
    assert not white[:, :5].any()
    assert white[:, 5:].all()
    assert ignored_share(sketch) == 0.25


def test_region_that_moves_with_the_part_names_its_image() -> None:
    sketch = Sketch(20, 10)
    sketch.add(Shape(Tool.BOX, ((2, 2), (15, 8)), Layer.INSPECT))
    options = mask_options(sketch, "train/good/3.png", moves=True)
    assert options["align"]
    assert options["reference"] == "train/good/3.png"
