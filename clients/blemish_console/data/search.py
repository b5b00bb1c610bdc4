# SPDX-License-Identifier: Apache-2.0
"""Searches for similar images: the query's picture, the text of the filter, and the hits as they come."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

from PIL import Image

from blemish.v1.inspection_pb2 import Inspection
from blemish.v1.search_pb2 import Hit
from blemish_client.client import Client
from blemish_client.errors import FailedPrecondition, NotFound
from blemish_client.names import short
from blemish_client.rendering.images import decode
from blemish_client.transport.requests import SearchOptions
from blemish_console.drawing.shapes import Box, Layer, Sketch, Tool, mask_png

MAX_UPLOAD_BYTES = 64_000_000
"""Largest image that the page takes, if the server does not set a lower limit."""
MAX_UPLOAD_PIXELS = 100_000_000
"""Most pixels of an image that is decoded for the page, if the server does not set a lower limit."""
SIDE_PX = 1024
"""Longer side of the query's picture in the page."""
_LEAST_THUMBNAIL_PX = 16
READ_ITEMS = 1000
"""Number of the latest items whose classes and cameras the pickers offer."""

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|[()]|\s+|[^\s()"\']+|.', re.DOTALL)
_OPERATORS = r"\s*(?:<=|>=|!=|[=<>:])"


class UnusableImage(ValueError):
    """An image that cannot be the query. The message has the remedy."""


@dataclass(frozen=True)
class QueryPicture:
    """The query image as the page shows it."""

    jpeg: bytes
    width: int
    """Width of the upright image in px, of which the picture is a smaller copy."""
    height: int

    @property
    def url(self) -> str:
        """The picture as an address of its own."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of the picture in px."""
        with Image.open(io.BytesIO(self.jpeg)) as image:
            return image.size


@dataclass(frozen=True)
class ImageQuery:
    """The parts of a search."""

    model: str
    image: bytes = b""
    """Encoded query image; empty if the query is an item."""
    item: str = ""
    box: Box | None = None
    """Part of the query image to find; None for all of it."""
    mask: bytes = b""
    """Part of the query image to find, as a PNG of its size; empty without one."""
    where: str = ""
    limit: int = 24


@dataclass
class Found:
    """The end of a search."""

    inspection: Inspection | None = None
    """Inspection of an uploaded query image."""
    count: int = 0
    unseen: int = 0
    """Number of candidates that a search by region had no time for."""


@dataclass(frozen=True)
class IndexContents:
    """The contents of an index, as far as the pickers offer them."""

    size: int
    classes: list[str] = field(default_factory=list)
    cameras: list[str] = field(default_factory=list)


def read_index(client: Client, model: str) -> IndexContents:
    """Return the size of a model's index, with the classes and cameras of its latest items.

    A model without an index has size 0.

    Raises:
        NotFound: if the model does not exist.
    """
    try:
        page = client.items_page(model, order_by="time desc", page_size=READ_ITEMS)
    except NotFound:
        if not any(each.name == f"models/{model.partition('/')[0]}" for each in client.models()):
            raise
        return IndexContents(0)
    classes = sorted({item.class_name for item in page.items if item.class_name})
    cameras = sorted({item.camera for item in page.items if item.camera})
    return IndexContents(page.total_size, classes, cameras)


def datasets_to_index(client: Client, model: str) -> list[str]:
    """Return the names of all datasets, first the one that the model was trained from."""
    own = ""
    with suppress(NotFound, FailedPrecondition):  # the model has no version in production
        own = client.model(model).dataset
    found = sorted(client.datasets(), key=lambda each: (each.name != own, each.name))
    return [short(each.name) for each in found]


def read_item(client: Client, item: str, model: str) -> tuple[Hit, QueryPicture]:
    """Return an item and its picture."""
    found = client.item(item, model)
    image = client.item_image(item, model, thumbnail=SIDE_PX)
    return found, QueryPicture(image.content, image.width, image.height)


def read_upload(content: bytes, max_bytes: int, max_pixels: int) -> QueryPicture:
    """Check an uploaded image and return its picture.

    Args:
        content: encoded image.
        max_bytes: largest image that the server takes; 0 if unknown.
        max_pixels: most pixels that the server takes; 0 if unknown.

    Raises:
        UnusableImage: if it is too large, or not an image.
    """
    most_bytes = min(max_bytes or MAX_UPLOAD_BYTES, MAX_UPLOAD_BYTES)
    if len(content) > most_bytes:
        raise UnusableImage(
            f"the image has {len(content):,} bytes, the limit is {most_bytes:,}; choose a smaller file"
        )
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = image.width * image.height
        most_pixels = min(max_pixels or MAX_UPLOAD_PIXELS, MAX_UPLOAD_PIXELS)
        if pixels > most_pixels:
            raise UnusableImage(
                f"the image has {pixels:,} pixels, the limit is {most_pixels:,}; choose a smaller image"
            )
        upright = decode(content)
    except UnusableImage:
        raise
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise UnusableImage(
            "the file cannot be read as an image; choose a PNG, JPEG, TIFF, BMP or WebP"
        ) from error
    width, height = upright.size
    upright.thumbnail((SIDE_PX, SIDE_PX))
    jpeg = io.BytesIO()
    upright.save(jpeg, "JPEG", quality=88)
    return QueryPicture(jpeg.getvalue(), width, height)


def read_hits(
    client: Client, query: ImageQuery, on_hit: Callable[[Hit], None], is_over: Callable[[], bool]
) -> Found:
    """Search, and pass on each hit as it comes.

    Args:
        client: client of the server.
        query: what is searched for.
        on_hit: called with each hit, the best first.
        is_over: returns True once the hits are no longer needed, which ends the search.
    """
    options = SearchOptions(where=query.where)
    if query.box is not None:
        options["region"] = query.box
    elif query.mask:
        options["mask"] = query.mask
    results = client.search(query.image or query.item, query.model, query.limit, **options)
    found = Found(results.query)
    for hit in results:
        if is_over():
            break
        found.count += 1
        on_hit(hit)
    found.unseen = results.unseen
    return found


def part_of(query: ImageQuery, sketch: Sketch) -> ImageQuery:
    """Return the search for the drawn part of a query image: a box as such, anything else as a mask."""
    shapes = sketch.shapes
    if len(shapes) == 1 and shapes[0].tool is Tool.BOX and not shapes[0].erases:
        return replace(query, box=shapes[0].box(), mask=b"")
    pixels = sketch.pixels(Layer.PART)
    return replace(query, box=None, mask=mask_png(pixels) if pixels.any() else b"")


def regions_svg(client: Client, item: str, model: str) -> str:
    """Return the regions of an item as SVG at the size of its image. It has numbers only."""
    found = client.item(item, model)
    image = client.item_image(item, model, thumbnail=_LEAST_THUMBNAIL_PX)
    # Corners are centres of pixels.
    shapes = "".join(
        f'<polygon points="{" ".join(f"{at.x + 0.5},{at.y + 0.5}" for at in region.contour)}"/>'
        for region in found.regions
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {image.width} {image.height}" '
        f'width="{image.width}" height="{image.height}" fill="#56b4e933" stroke="#ffdf33" '
        f'stroke-width="{max(image.width, image.height) / 100:.2f}" stroke-linejoin="round">{shapes}</svg>'
    )


def quoted(value: str) -> str:
    """Return a value as a filter takes it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def with_condition(where: str, name: str, condition: str) -> str:
    """Return a filter with this condition in place of those of the same field.

    Args:
        where: filter, which may be malformed.
        name: field of the filter.
        condition: condition of the field; empty for none.
    """
    kept = [part for part in _split(where, "AND") if part and not _is_about(part, name)]
    return " AND ".join([*kept, *filter(None, [condition])])


def chosen_value(where: str, name: str) -> str:
    """Return the value that a filter requires of a field; empty if it does not require exactly one."""
    found = []
    for part in _split(where, "AND"):
        if match := re.fullmatch(rf"""{name}\s*=\s*("(?:\\.|[^"\\])*"|[^\s()"']+)""", part, re.DOTALL):
            value = match[1]
            found.append(re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value)
    return found[0] if len(found) == 1 else ""


def _is_about(part: str, name: str) -> bool:
    """Return whether all alternatives of a part of a filter are conditions of one field."""
    return all(
        re.match(rf"(?:NOT\s+|-)?{name}{_OPERATORS}", alternative) for alternative in _split(part, "OR")
    )


def _split(where: str, operator: str) -> Iterator[str]:
    """Yield the parts of a filter between the operators outside of parentheses."""
    depth = 0
    part: list[str] = []
    for match in _TOKEN.finditer(where):
        token = match[0]
        depth += (token == "(") - (token == ")")
        if token == operator and depth == 0:
            yield "".join(part).strip()
            part = []
        else:
            part.append(token)
    yield "".join(part).strip()
