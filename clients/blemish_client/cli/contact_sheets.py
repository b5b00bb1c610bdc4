# SPDX-License-Identifier: Apache-2.0
"""Contact sheets of kept frames as PNG files, and single frames with their anomaly map."""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import grpc
from PIL import Image

from blemish.v1.search_pb2 import Hit
from blemish_client.cli.failures import Failure
from blemish_client.cli.item_files import file_stem
from blemish_client.cli.items import short_ids
from blemish_client.cli.new_files import create_files, create_numbered, numbered_names
from blemish_client.cli.output import ABSENT, number, when
from blemish_client.client import Client
from blemish_client.errors import BlemishError, NotFound
from blemish_client.rendering.contact import DRAWN, ContactEntry, contact_sheet
from blemish_client.rendering.heatmap import heatmap
from blemish_client.rendering.images import decode, enlarge, pixel_scores
from blemish_layouts.names import printable

_PER_PAGE = 30


def write_sheets(
    client: Client, model: str, frames: Sequence[Hit], threshold: float | None, file: Path
) -> list[Path]:
    """Draw the frames on contact sheets of 30 each, and return the files, which are new.

    Each frame has its number, short id, time, camera, score and outlined regions.

    Args:
        client: client of the server with the frames.
        model: model with the frames in its index.
        frames: frames, at least one.
        threshold: threshold of the scores, None if it is not known.
        file: first file. Others get the number of their page. All get a further number if one exists.

    Raises:
        Failure: if they cannot be written.
        BlemishError: if a call fails; a frame that is no longer stored is an empty tile.
    """
    ids = short_ids(frames)
    entries = [
        _entry(client, model, frame, f"{place}  {ids[frame.item]}", threshold)
        for place, frame in enumerate(frames, 1)
    ]
    starts = range(0, len(entries), _PER_PAGE)
    pages = []
    for page, start in enumerate(starts, 1):
        part = entries[start : start + _PER_PAGE]
        title = f"{model}, frames {start + 1} to {start + len(part)} of {len(entries)}"
        pages.append(_png(contact_sheet(f"{title}, page {page} of {len(starts)}", part)))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for name in numbered_names(file.stem):
            files = [
                file.with_name(f"{name}{f'-page{page}' if page > 1 else ''}{file.suffix}")
                for page in range(1, len(pages) + 1)
            ]
            with suppress(FileExistsError):
                create_files(dict(zip(files, pages, strict=True)))
                return files
    except OSError as error:
        reason = error.strerror or error
        raise Failure(
            f"cannot write {file}: {reason}; choose another file with --sheet, or pass --no-sheet"
        ) from error
    raise AssertionError("numbered_names ends with an error")


def score_text(score: float, threshold: float | None) -> str:
    """Return a score, and the threshold if it is known."""
    return f"score {number(score)}" + ("" if threshold is None else f", threshold {number(threshold)}")


def write_frame(client: Client, model: str, frame: Hit, folder: Path) -> Path:
    """Write a frame with its anomaly map and its regions as a new PNG file, and return its path.

    Raises:
        OSError: if the file cannot be written, or the image not be decoded.
        BlemishError: if a call fails.
    """
    stored = client.item_image(frame.item, model)
    anomaly_map = client.item_map(frame.item, model)
    drawn = heatmap(
        enlarge(decode(stored.content)),
        pixel_scores(anomaly_map),
        anomaly_map.threshold,
        regions=frame.regions,
        region_size=(stored.width, stored.height),
        caption=f"{when(frame.time)}  {printable(frame.camera)}  score {number(frame.score)}",
    )
    return create_numbered(folder / f"{file_stem(frame)}.png", _png(drawn))


def _entry(client: Client, model: str, frame: Hit, heading: str, threshold: float | None) -> ContactEntry:
    image, size = None, None
    try:
        stored = client.item_image(frame.item, model, thumbnail=DRAWN)
        image, size = decode(stored.content), (stored.width, stored.height)
    except OSError:
        pass  # not an image, which its tile shows
    except BlemishError as error:
        if not isinstance(error, NotFound) and error.code is not grpc.StatusCode.DATA_LOSS:
            raise
    lines = (
        when(frame.time),
        f"camera {printable(frame.camera) or ABSENT}",
        score_text(frame.score, threshold),
    )
    return ContactEntry(heading, lines, image, tuple(frame.regions), size)


def _png(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
