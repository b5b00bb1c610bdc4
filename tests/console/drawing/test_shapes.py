# SPDX-License-Identifier: Apache-2.0
import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish_console.drawing.shapes import (
    MAX_POINTS,
    Layer,
    Pixels,
    Shape,
    Sketch,
    Tool,
    UnusableShape,
    mask_png,
    overlay_png,
)

SIZE = (40, 30)


def drawn(shape: Shape) -> Pixels:
    pixels = np.zeros((SIZE[1], SIZE[0]), np.bool_)
    shape.apply(pixels)
    return pixels


def sent(**changes: Any) -> dict[str, Any]:
    return {"tool": "box", "layer": "defect", "points": [[1, 2], [5, 6]], "radius": 0} | changes


def test_box_covers_pixels_with_centres_inside() -> None:
    pixels = drawn(Shape(Tool.BOX, ((10.4, 20.6), (2.6, 4.4))))
    expected = np.zeros_like(pixels)
    expected[4:21, 3:10] = True
    np.testing.assert_array_equal(pixels, expected)


def test_polygon_covers_pixels_with_centres_inside() -> None:
    corners = ((3.2, 2.1), (36.7, 9.3), (20.4, 27.9), (12.8, 14.2))
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    inside = np.zeros((SIZE[1], SIZE[0]), np.bool_)
    for (x, y), (other_x, other_y) in zip(corners, corners[1:] + corners[:1], strict=True):
        crosses = (y <= rows) != (other_y <= rows)
        inside ^= crosses & (columns < x + (rows - y) * (other_x - x) / (other_y - y))
    np.testing.assert_array_equal(drawn(Shape(Tool.POLYGON, corners)), inside)


def test_touching_polygons_share_no_pixel_and_leave_none_out() -> None:
    left = drawn(Shape(Tool.POLYGON, ((0, 0), (17.3, 0), (9.1, 30), (0, 30))))
    right = drawn(Shape(Tool.POLYGON, ((17.3, 0), (40, 0), (40, 30), (9.1, 30))))
    assert not (left & right).any()
    assert (left | right).all()


@pytest.mark.parametrize(
    "way",
    [
        ((8.0, 9.0),),
        ((8.0, 9.0), (30.0, 20.0)),
        ((30.0, 20.0), (30.0, 4.0), (8.0, 4.0)),
        ((8.0, 9.0), (8.0, 9.0)),
        ((-2.0, 15.0), (43.0, 15.5)),
    ],
)
def test_brush_covers_the_pixels_near_its_way(way: tuple[tuple[float, float], ...]) -> None:
    radius = 3.7
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    distance = np.full((SIZE[1], SIZE[0]), np.inf)
    for (x, y), (other_x, other_y) in zip(way, way[1:] or way, strict=False):
        length = (other_x - x) ** 2 + (other_y - y) ** 2
        along = ((columns - x) * (other_x - x) + (rows - y) * (other_y - y)) / (length or 1)
        nearest = np.clip(along, 0, 1)
        off = np.hypot(columns - x - nearest * (other_x - x), rows - y - nearest * (other_y - y))
        distance = np.minimum(distance, off)
    np.testing.assert_array_equal(drawn(Shape(Tool.BRUSH, way, radius=radius)), distance <= radius)


def test_long_stroke_equals_its_parts() -> None:
    steps = np.random.default_rng(3).normal(0, 3, (200, 2))
    way = tuple((float(x), float(y)) for x, y in np.cumsum(steps, axis=0) + np.array([20, 15]))
    parts = [drawn(Shape(Tool.BRUSH, pair, radius=1.3)) for pair in pairwise(way)]
    np.testing.assert_array_equal(drawn(Shape(Tool.BRUSH, way, radius=1.3)), np.logical_or.reduce(parts))


def test_shape_outside_of_the_image_covers_nothing() -> None:
    assert not drawn(Shape(Tool.BRUSH, ((-9.0, -9.0), (-9.0, 50.0)), radius=2)).any()
    assert not drawn(Shape(Tool.POLYGON, ((40, 0), (40, 10), (40, 20)))).any()


def test_eraser_clears_what_was_drawn_and_what_was_there() -> None:
    sketch = Sketch(*SIZE, base=np.ones((SIZE[1], SIZE[0]), np.bool_))
    sketch.add(Shape(Tool.BOX, ((0, 0), (10, 30)), erases=True))
    sketch.add(Shape(Tool.BOX, ((0, 0), (5, 5))))
    pixels = sketch.pixels(Layer.DEFECT)
    assert pixels[:5, :5].all()
    assert not pixels[5:, :10].any()
    assert pixels[:, 10:].all()


def test_undo_takes_back_shapes_and_the_removal_of_all() -> None:
    base = np.zeros((SIZE[1], SIZE[0]), np.bool_)
    base[3, 3] = True
    sketch = Sketch(*SIZE, base=base)
    sketch.add(Shape(Tool.BOX, ((10, 10), (20, 20))))
    sketch.clear()
    assert not sketch.pixels(Layer.DEFECT).any()
    assert sketch.is_changed
    sketch.undo()
    assert sketch.pixels(Layer.DEFECT).sum() == 101
    sketch.undo()
    np.testing.assert_array_equal(sketch.pixels(Layer.DEFECT), base)
    assert not sketch.is_changed
    sketch.undo()
    assert not sketch.is_changed


def test_box_that_replaces_is_undone_in_one_step() -> None:
    base = np.ones((SIZE[1], SIZE[0]), np.bool_)
    sketch = Sketch(*SIZE, base=base)
    sketch.add(Shape(Tool.BOX, ((0, 0), (9, 9)), replaces=True))
    sketch.add(Shape(Tool.BOX, ((10, 10), (20, 20)), replaces=True))
    assert [shape.points[0] for shape in sketch.shapes] == [(10, 10)]
    assert sketch.pixels(Layer.DEFECT).sum() == 100
    sketch.undo()
    assert sketch.pixels(Layer.DEFECT).sum() == 81
    sketch.undo()
    assert sketch.pixels(Layer.DEFECT).all()


def test_drawing_leaves_the_mask_that_was_there_unchanged() -> None:
    base = np.zeros((SIZE[1], SIZE[0]), np.bool_)
    sketch = Sketch(*SIZE, base=base)
    sketch.add(Shape(Tool.BOX, ((0, 0), (9, 9))))
    assert sketch.pixels(Layer.DEFECT).any()
    assert not base.any()


def test_model_looks_at_all_but_ignored_pixels_or_at_the_inspected_ones() -> None:
    sketch = Sketch(*SIZE)
    assert sketch.looks() is None
    sketch.add(Shape(Tool.BOX, ((0, 0), (10, 30)), Layer.IGNORE))
    looks = sketch.looks()
    assert looks is not None
    assert not looks[:, :10].any()
    assert looks[:, 10:].all()
    sketch.add(Shape(Tool.BOX, ((5, 0), (20, 30)), Layer.INSPECT))
    looks = sketch.looks()
    assert looks is not None
    assert looks[:, 10:20].all()
    assert looks.sum() == 300


def test_shape_of_a_page_is_moved_into_the_image() -> None:
    shape = Shape.parse(sent(points=[[-5, 3], [90, 12.5]]), SIZE)
    assert shape.points == ((0, 3), (40, 12.5))
    assert not shape.erases
    brush = Shape.parse(sent(tool="brush", points=[[-900, 3]], radius=2, erases=True), SIZE)
    assert brush.points == ((-2, 3),)
    assert brush.erases


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        sent(tool="spray"),
        sent(layer="other"),
        sent(points=[[1, 2]]),
        sent(points=[[1, 2], [3, 4], [5, 6]]),
        sent(points=[[1, 2], [float("nan"), 4]]),
        sent(points=[[1, 2], ["x", 4]]),
        sent(points=[[1, 2, 3], [4, 5, 6]]),
        sent(points="12"),
        sent(tool="polygon", points=[[0, 0], [1, 1]]),
        sent(tool="polygon", points=[[0, 0]] * (MAX_POINTS + 1)),
        sent(tool="brush", points=[[0, 0]], radius=0),
        sent(tool="brush", points=[[0, 0]], radius=1e9),
        sent(tool="brush", points=[[0, 0]], radius=None),
    ],
)
def test_shape_that_no_page_sends_is_refused(wrong: object) -> None:
    with pytest.raises(UnusableShape):
        Shape.parse(wrong, SIZE)


def test_shape_survives_the_way_to_the_page_and_back() -> None:
    shape = Shape(Tool.BRUSH, ((1.5, 2), (3, 4)), Layer.IGNORE, 2.5, erases=True, replaces=True)
    assert Shape.parse(shape.to_page(), SIZE) == shape
    sketch = Sketch(*SIZE)
    sketch.add(shape)
    sketch.clear()
    assert sketch.steps == (shape, None)


def test_box_is_given_in_whole_px() -> None:
    shape = Shape(Tool.BOX, ((12.7, 3.2), (2.4, 9.8)))
    assert shape.box() == (2, 3, 11, 7)
    assert shape.box(8) is None


def test_mask_is_black_and_white_and_keeps_every_pixel() -> None:
    pixels = drawn(Shape(Tool.BRUSH, ((8.0, 9.0), (30.0, 20.0)), radius=2.5))
    with Image.open(io.BytesIO(mask_png(pixels))) as image:
        assert image.format == "PNG"
        levels = np.asarray(image.convert("L"))
    assert set(np.unique(levels)) == {0, 255}
    np.testing.assert_array_equal(levels > 0, pixels)


def test_overlay_is_opaque_on_the_mask_only_and_reduced() -> None:
    pixels = drawn(Shape(Tool.BOX, ((0, 0), (20, 30))))
    with Image.open(io.BytesIO(overlay_png(pixels, 20))) as image:
        alpha = np.asarray(image.getchannel("A"))
    assert alpha.shape == (15, 20)
    assert (alpha[:, :10] == 255).all()
    assert (alpha[:, 10:] == 0).all()
