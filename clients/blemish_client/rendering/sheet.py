# SPDX-License-Identifier: Apache-2.0
"""Several images on one sheet, with their anomaly maps below."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS
from blemish.v1.inspection_pb2 import Inspection
from blemish_client.rendering.colours import ANOMALOUS, FAINT, GOOD, PAPER, Colour
from blemish_client.rendering.heatmap import heatmap, outline
from blemish_client.rendering.images import pixel_scores, scaled
from blemish_client.rendering.outlines import drawable_regions, resized_mask
from blemish_client.rendering.text import write

SIDE = 320
_DRAWN = 2 * SIDE
"""Longer side of images while lines are drawn on them, in px; in larger ones lines would be too thin."""
GAP = 16
MARGIN = 24
TITLE, BODY, SMALL = 20, 16, 14
_TRUTH: Colour = (60, 190, 255)
_WRONG: Colour = (176, 108, 0)
_LEGEND = (
    "top: image with the ground truth outlined in blue; "
    "bottom: anomaly map with the regions of defects outlined"
)


@dataclass(frozen=True)
class SheetColumn:
    """An image with its ground truth and inspection."""

    class_name: str
    label: str
    """Name of the image within its class."""
    image: Image.Image
    mask: Image.Image | None
    """Ground truth, nonzero at the defect. None for a good image."""
    inspection: Inspection
    """Inspection with an anomaly map and regions."""
    size: tuple[int, int] | None = None
    """Width and height in px that regions refer to, by default those of ``image``."""


def sheet(title: str, columns: Sequence[SheetColumn]) -> Image.Image:
    """Draw one column per image: the image with the ground truth outlined, and its heatmap below."""
    top = MARGIN + TITLE + 2 * SMALL + 8
    width = 2 * MARGIN + len(columns) * (SIDE + GAP) - GAP
    height = top + 2 * SIDE + GAP + 8 + 2 * BODY + SMALL + MARGIN
    page = Image.new("RGB", (width, height), PAPER)
    canvas = ImageDraw.Draw(page)
    write(canvas, (MARGIN, MARGIN), title, TITLE, width_px=width - 2 * MARGIN)
    write(canvas, (MARGIN, MARGIN + TITLE + 8), _LEGEND, SMALL, width_px=width - 2 * MARGIN, colour=FAINT)
    for number, column in enumerate(columns):
        left = MARGIN + number * (SIDE + GAP)
        image = scaled(column.image, _DRAWN)
        above = image
        if column.mask is not None:
            above = outline(image, resized_mask(column.mask, image.size), _TRUTH)
        anomaly_map = column.inspection.anomaly_map
        below = heatmap(
            image,
            pixel_scores(anomaly_map),
            anomaly_map.threshold,
            regions=drawable_regions(column.inspection),
            region_size=column.size or column.image.size,
        )
        _paste(page, above, (left, top))
        _paste(page, below, (left, top + SIDE + GAP))
        _label(canvas, column, (left, top + 2 * SIDE + GAP + 8))
    return page


def _paste(page: Image.Image, picture: Image.Image, corner: tuple[int, int]) -> None:
    fitted = scaled(picture, SIDE)
    left, top = corner[0] + (SIDE - fitted.width) // 2, corner[1] + (SIDE - fitted.height) // 2
    page.paste(fitted, (left, top))


def _label(canvas: ImageDraw.ImageDraw, column: SheetColumn, corner: tuple[int, int]) -> None:
    inspection = column.inspection
    anomalous, defective = inspection.verdict == VERDICT_ANOMALOUS, column.class_name != "good"
    verdict, colour = ("anomalous", ANOMALOUS) if anomalous else ("normal", GOOD)
    if anomalous != defective:
        verdict, colour = f"{verdict} ({'missed' if defective else 'false reject'})", _WRONG
    line = f"{column.class_name} {column.label}: {verdict}"
    write(canvas, corner, line, BODY, width_px=SIDE, colour=colour)
    figures = f"score {inspection.score:.3f}, threshold {inspection.threshold:.3f}"
    write(canvas, (corner[0], corner[1] + BODY + 6), figures, SMALL, width_px=SIDE, colour=FAINT)
