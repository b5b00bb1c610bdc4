# SPDX-License-Identifier: Apache-2.0
"""Contact sheets: many numbered frames on one page, with the regions of their defects outlined."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from blemish.v1.image_pb2 import DefectRegion
from blemish_client.rendering.colours import FAINT, PAPER, Colour
from blemish_client.rendering.heatmap import outline
from blemish_client.rendering.images import scaled
from blemish_client.rendering.outlines import region_mask
from blemish_client.rendering.text import write

SIDE = 240
DRAWN = 2 * SIDE
"""Longer side of images while lines are drawn on them, in px; in larger ones lines would be too thin."""
MARGIN, GAP = 24, 16
TITLE, HEADING, SMALL = 20, 18, 14
_LINE = SMALL + 4
_NOTHING: Colour = (228, 228, 224)


@dataclass(frozen=True)
class ContactEntry:
    """A frame of a contact sheet."""

    heading: str
    lines: tuple[str, ...]
    """Lines of small text below the heading."""
    image: Image.Image | None
    """The frame at any size, or None if it is no longer stored."""
    regions: Sequence[DefectRegion] = ()
    size: tuple[int, int] | None = None
    """Width and height in px that regions refer to, by default those of ``image``."""


def contact_sheet(title: str, entries: Sequence[ContactEntry], *, columns: int = 5) -> Image.Image:
    """Draw the frames row by row, each above its heading and lines."""
    columns = max(1, min(columns, len(entries)))
    rows = -(-len(entries) // columns)
    caption = HEADING + 8 + _LINE * max((len(entry.lines) for entry in entries), default=0)
    top, across, down = MARGIN + TITLE + GAP, SIDE + GAP, SIDE + 6 + caption + GAP
    width = max(2 * MARGIN + columns * across - GAP, 2 * MARGIN + 2 * SIDE)
    page = Image.new("RGB", (width, top + rows * down - GAP + MARGIN), PAPER)
    canvas = ImageDraw.Draw(page)
    write(canvas, (MARGIN, MARGIN), title, TITLE, width_px=width - 2 * MARGIN)
    for place, entry in enumerate(entries):
        row, column = divmod(place, columns)
        left, upper = MARGIN + column * across, top + row * down
        _draw_frame(page, entry, (left, upper))
        line = upper + SIDE + 6
        write(canvas, (left, line), entry.heading, HEADING, width_px=SIDE)
        for number, text in enumerate(entry.lines):
            at = (left, line + HEADING + 8 + number * _LINE)
            write(canvas, at, text, SMALL, width_px=SIDE, colour=FAINT)
    return page


def _draw_frame(page: Image.Image, entry: ContactEntry, corner: tuple[int, int]) -> None:
    """Draw the whole frame with its regions, centred in a square."""
    left, top = corner
    canvas = ImageDraw.Draw(page)
    canvas.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), fill=_NOTHING)
    if entry.image is None:
        write(canvas, (left + 8, top + 8), "no longer stored", SMALL, width_px=SIDE - 16, colour=FAINT)
        return
    drawn = scaled(entry.image.convert("RGB"), DRAWN)
    if entry.regions:
        drawn = outline(drawn, region_mask(entry.regions, entry.size or entry.image.size, drawn.size))
    fitted = scaled(drawn, SIDE)
    page.paste(fitted, (left + (SIDE - fitted.width) // 2, top + (SIDE - fitted.height) // 2))
