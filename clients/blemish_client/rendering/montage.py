# SPDX-License-Identifier: Apache-2.0
"""A query image next to the most similar past images."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, VERDICT_NORMAL
from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.search_pb2 import Hit
from blemish_client.rendering.colours import ANOMALOUS, FAINT, GOOD, INK, PAPER, Colour, class_colours
from blemish_client.rendering.images import decode
from blemish_client.rendering.text import font, write
from blemish_client.search import similarity

MARGIN = 24
GAP = 16
TILE = 168
BORDER = 6
CAPTION = 50
TITLE, BODY, SMALL = 20, 16, 13
_NOTHING: Colour = (228, 228, 224)
_UNKNOWN = ("", INK)
_VERDICTS = {VERDICT_NORMAL: ("normal", GOOD), VERDICT_ANOMALOUS: ("anomalous", ANOMALOUS)}


Box = tuple[int, int, int, int]
"""Left, top, width and height."""


@dataclass(frozen=True)
class MontageQuery:
    """The query of a search, as drawn."""

    label: str
    """Name of the query: a file or an item."""
    image: Image.Image | None
    """Image of the query, or None for a query without one."""
    class_name: str = ""
    """Class of the query, if known."""
    inspection: Inspection | None = None
    region: Box | None = None
    """Part of the image that was searched for, in px."""
    size: tuple[int, int] | None = None
    """Width and height in px that ``region`` refers to, by default those of ``image``."""


def montage(query: MontageQuery, hits: Sequence[Hit], *, columns: int = 5) -> Image.Image:
    """Draw the query on the left and the hits in a grid, each framed in the colour of its class.

    Args:
        query: query of the search.
        hits: hits with thumbnails. A hit without one is an empty tile.
        columns: tiles per row of the grid.
    """
    columns = max(1, min(columns, len(hits)))
    rows = max(2, -(-len(hits) // columns))
    panel = 2 * TILE + GAP + CAPTION
    grid_left = MARGIN + panel + 2 * GAP + MARGIN
    top = MARGIN + TITLE + GAP
    width = grid_left + columns * (TILE + GAP) - GAP + MARGIN
    height = top + rows * (TILE + CAPTION + GAP) - GAP + MARGIN
    page = Image.new("RGB", (width, height), PAPER)
    canvas = ImageDraw.Draw(page)
    colours = class_colours([hit.class_name for hit in hits] + [query.class_name or "good"])

    write(canvas, (MARGIN, MARGIN), "query", TITLE, width_px=panel)
    write(canvas, (grid_left, MARGIN), "most similar", TITLE, width_px=width - grid_left)
    divider = grid_left - MARGIN - GAP // 2
    canvas.line((divider, MARGIN, divider, height - MARGIN), fill=_NOTHING, width=2)
    _draw_query(page, query, colours.get(query.class_name, FAINT), (MARGIN, top), panel)
    for place, hit in enumerate(hits):
        row, column = divmod(place, columns)
        corner = (grid_left + column * (TILE + GAP), top + row * (TILE + CAPTION + GAP))
        _draw_hit(page, hit, colours[hit.class_name], corner)
    return page


def _draw_query(
    page: Image.Image, query: MontageQuery, colour: Colour, corner: tuple[int, int], side: int
) -> None:
    image = query.image
    if image is not None and query.region is not None:
        image = _with_box(image, query.region, query.size or image.size)
    _draw_framed(page, image, colour, corner, side)
    canvas = ImageDraw.Draw(page)
    left, line = corner[0], corner[1] + side + 8
    inspection = query.inspection
    verdict, ink = _VERDICTS.get(inspection.verdict, _UNKNOWN) if inspection else _UNKNOWN
    description = ", ".join(filter(None, (query.class_name, verdict)))
    write(canvas, (left, line), description or query.label, TITLE, width_px=side, colour=ink)
    if inspection is not None:
        figures = f"score {inspection.score:.3f}, threshold {inspection.threshold:.3f}"
        write(canvas, (left, line + 26), figures, BODY, width_px=side)


def _draw_hit(page: Image.Image, hit: Hit, colour: Colour, corner: tuple[int, int]) -> None:
    thumbnail = decode(hit.thumbnail) if hit.thumbnail else None
    if thumbnail is not None and hit.HasField("match"):
        match = hit.match
        box = (match.box.left, match.box.top, match.box.width, match.box.height)
        thumbnail = _with_box(thumbnail, box, (match.width, match.height))
    _draw_framed(page, thumbnail, colour, corner, TILE)
    canvas = ImageDraw.Draw(page)
    left, line = corner[0], corner[1] + TILE + 5
    write(canvas, (left, line), hit.class_name or "-", BODY, width_px=TILE - 56, colour=colour)
    likeness = f"{similarity(hit):.3f}"
    right = left + TILE - round(canvas.textlength(likeness, font=font(BODY)))
    write(canvas, (right, line), likeness, BODY, width_px=TILE)
    verdict, _ = _VERDICTS.get(hit.verdict, _UNKNOWN)
    result = f"score {hit.score:.2f} {verdict}"
    write(canvas, (left, line + 22), result, SMALL, width_px=TILE, colour=FAINT)


def _with_box(image: Image.Image, box: Box, size: tuple[int, int]) -> Image.Image:
    """Draw a light box with a dark rim, given in px of an image of ``size`` (width, height)."""
    across, down = image.width / max(size[0], 1), image.height / max(size[1], 1)
    left, top = box[0] * across, box[1] * down
    # A box of less than a pixel of the picture is drawn as one.
    right, bottom = left + max(0.0, box[2] * across - 1), top + max(0.0, box[3] * down - 1)
    corners = (left, top, right, bottom)
    drawn = image.convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    line = max(2, max(image.size) // 100)
    for grown, colour in ((line, INK), (0, PAPER)):
        rim = (corners[0] - grown, corners[1] - grown, corners[2] + grown, corners[3] + grown)
        canvas.rectangle(rim, outline=colour, width=line)
    return drawn


def _draw_framed(
    page: Image.Image,
    image: Image.Image | None,
    colour: Colour,
    corner: tuple[int, int],
    side: int,
) -> None:
    """Draw the whole image, centred in a square with a coloured border."""
    left, top = corner
    canvas = ImageDraw.Draw(page)
    canvas.rectangle((left, top, left + side - 1, top + side - 1), fill=colour)
    inner = side - 2 * BORDER
    inside = (left + BORDER, top + BORDER)
    canvas.rectangle((*inside, inside[0] + inner - 1, inside[1] + inner - 1), fill=_NOTHING)
    if image is None:
        write(canvas, (inside[0] + 8, inside[1] + 8), "no image", SMALL, width_px=inner, colour=FAINT)
        return
    scale = inner / max(image.size)
    fitted = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))),
        Image.Resampling.LANCZOS,
    )
    page.paste(
        fitted,
        (inside[0] + (inner - fitted.width) // 2, inside[1] + (inner - fitted.height) // 2),
    )
