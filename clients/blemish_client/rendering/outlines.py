# SPDX-License-Identifier: Apache-2.0
"""Regions as masks of a picture, from the contours of an inspection."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, DefectRegion
from blemish.v1.inspection_pb2 import Inspection


def region_mask(
    regions: Sequence[DefectRegion], image_size: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return the pixels within regions, for a picture of the image at another size.

    Args:
        regions: regions in px of the image.
        image_size: width and height of the image.
        size: width and height of the picture.
    """
    across, down = size[0] / image_size[0], size[1] / image_size[1]
    mask = Image.new("L", size)
    canvas = ImageDraw.Draw(mask)
    for region in regions:
        # Corners are centres of pixels, which a larger picture shows as squares.
        corners = [((point.x + 0.5) * across, (point.y + 0.5) * down) for point in region.contour]
        if len(corners) > 1:
            canvas.polygon(corners, fill=255)
            canvas.line([*corners, corners[0]], fill=255, width=max(1, round(across)))
        for x, y in corners:
            box = (x - across / 2, y - down / 2, x + across / 2 - 1, y + down / 2 - 1)
            canvas.rectangle((box[0], box[1], max(box[0], box[2]), max(box[1], box[3])), fill=255)
    return np.asarray(mask) > 0


def resized_mask(mask: Image.Image, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask at the size (width, height) of a picture; a pixel is set if any below it is nonzero."""
    levels = np.asarray(mask)
    filled = levels.any(axis=2) if levels.ndim == 3 else levels != 0
    image = Image.fromarray(filled.astype(np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BOX)) > 0


def shifted_regions(
    regions: Sequence[DefectRegion] | None, left: int, top: int
) -> Sequence[DefectRegion] | None:
    """Return regions in px of the part of an image that begins at ``left`` and ``top``."""
    if regions is None:
        return None
    shifted = []
    for region in regions:
        moved = DefectRegion()
        moved.CopyFrom(region)
        moved.box.left, moved.box.top = region.box.left - left, region.box.top - top
        for point in (*moved.contour, moved.peak):
            point.x, point.y = point.x - left, point.y - top
        shifted.append(moved)
    return shifted


def drawable_regions(inspection: Inspection) -> Sequence[DefectRegion] | None:
    """Return the regions of an inspection, None if the server sent none for an anomalous image."""
    if inspection.verdict == VERDICT_ANOMALOUS and not inspection.regions:
        return None
    return inspection.regions
