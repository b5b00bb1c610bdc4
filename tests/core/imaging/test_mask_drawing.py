# SPDX-License-Identifier: Apache-2.0

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.mask_drawing import MAX_POINTS, MaskDrawing, Polygon
from blemish_core.platform.errors import InvalidImage, InvalidRequest

SQUARE = ((4, 4), (12, 4), (12, 12), (4, 12))


def polygon(*points: tuple[float, float]) -> Polygon:
    return np.array(points, np.float64).reshape(-1, 2)


def rasterized(drawing: MaskDrawing) -> NDArray[np.bool_]:
    return drawing.rasterized(ImageLimits(), "mask")


def test_included_and_ignored_polygons_select_pixels_by_their_centers() -> None:
    included = rasterized(MaskDrawing(24, 16, [polygon(*SQUARE)]))
    assert included.shape == (16, 24)
    assert included[4:12, 4:12].all()
    assert included.sum() == 64
    ignored = rasterized(MaskDrawing(24, 16, ignore=[polygon(*SQUARE)]))
    np.testing.assert_array_equal(ignored, ~included)
    both = rasterized(MaskDrawing(24, 16, [polygon(*SQUARE)], [polygon((4, 4), (8, 4), (8, 12), (4, 12))]))
    assert both.sum() == 32
    assert both[4:12, 8:12].all()


def test_polygon_may_repeat_its_first_point_at_the_end() -> None:
    closed = rasterized(MaskDrawing(24, 16, [polygon(*SQUARE, SQUARE[0])]))
    np.testing.assert_array_equal(closed, rasterized(MaskDrawing(24, 16, [polygon(*SQUARE)])))


def test_random_outlines_agree_with_a_point_in_polygon_test() -> None:
    seed = int(np.random.default_rng().integers(1 << 30))
    print(f"seed {seed}")
    random = np.random.default_rng(seed)
    for _ in range(10):
        count = int(random.integers(3, 30))
        # One angle in each sector: a gap of half a turn would let the last side cross others.
        angles = (np.arange(count) + random.uniform(0, 0.9, count)) * 2 * np.pi / count
        radii = random.uniform(3, 15, count)
        star = np.stack([32 + radii * np.cos(angles), 20 + radii * np.sin(angles)], axis=1)
        found = rasterized(MaskDrawing(64, 40, [star]))
        outline = star.astype(np.float32).reshape(-1, 1, 2)
        for row in range(40):
            for column in range(64):
                distance = cv2.pointPolygonTest(outline, (column + 0.5, row + 0.5), measureDist=True)
                if abs(distance) > 1e-3:  # closer ones are decided by rounding
                    assert found[row, column] == (distance > 0), (star, row, column)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (((0, 0), (10, 10)), "has 2 points; send at least 3"),
        (((0, 0), (10, 10), (10, 0), (0, 10)), "crosses or touches itself at its sides 1 and 3"),
        (((0, 0), (5, 0), (10, 0)), "crosses or touches itself"),
        (((0, 0), (10, 0), (10, 10), (5, 0), (0, 10)), "crosses or touches itself"),
        (((0, 0), (0, 0), (10, 0), (10, 10)), "crosses or touches itself"),
        (((0, 0), (24.5, 0), (3, 3)), r"the point \(24.5, 0\), but the image is 24 x 16 px"),
        (((0, -1), (20, 0), (3, 3)), "move it into the image"),
        (((float("nan"), 0), (20, 0), (3, 3)), "move it into the image"),
    ],
)
def test_invalid_polygon_is_rejected_with_its_place(
    points: tuple[tuple[float, float], ...], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=f"polygon 2 of ignore .*{reason}") as caught:
        rasterized(MaskDrawing(24, 16, ignore=[polygon(*SQUARE), polygon(*points)]))
    assert caught.value.field == "mask.ignore"


def test_number_of_points_and_size_of_the_image_are_limited() -> None:
    with pytest.raises(InvalidRequest, match="have 0 points"):
        rasterized(MaskDrawing(24, 16))
    angles = np.linspace(0, 6, MAX_POINTS + 1)
    circle = np.stack([100 + 50 * np.cos(angles), 100 + 50 * np.sin(angles)], axis=1)
    with pytest.raises(InvalidRequest, match=f"send 1 to {MAX_POINTS}, or a PNG"):
        rasterized(MaskDrawing(200, 200, [circle]))
    with pytest.raises(InvalidImage, match="BLEMISH_MAX_IMAGE_PIXELS"):
        rasterized(MaskDrawing(16_000, 16_000, [polygon(*SQUARE)]))
    with pytest.raises(InvalidImage):
        rasterized(MaskDrawing(0, 16, [polygon(*SQUARE)]))
