# SPDX-License-Identifier: Apache-2.0
"""The images of a dataset on which a region to inspect is drawn, and the drawing as a training takes it."""

from dataclasses import dataclass
from itertools import islice

from blemish_client.client import Client
from blemish_client.transport.work_requests import TrainOptions
from blemish_console.drawing.shapes import Sketch, mask_png

MAX_REFERENCES = 200
"""Most training images that are offered to draw on."""


@dataclass(frozen=True)
class Reference:
    """An image to draw on."""

    path: str
    """Path in the dataset."""
    shown: str
    """Name for people."""
    sha256: bytes


def read_references(client: Client, dataset: str) -> list[Reference]:
    """Return the first training images of a dataset by path."""
    images = islice(client.images(dataset, under="train/"), MAX_REFERENCES)
    return [Reference(each.path, each.original_path or each.path, each.sha256) for each in images]


def read_size(client: Client, dataset: str, path: str) -> tuple[int, int]:
    """Return width and height of an upright image, in px."""
    image = client.dataset_image(dataset, path, thumbnail=16)
    return image.width, image.height


def ignored_share(sketch: Sketch) -> float:
    """Return the share of pixels that a training ignores."""
    looks = sketch.looks()
    return 0.0 if looks is None else 1 - float(looks.mean())


def mask_options(sketch: Sketch, reference: str, *, moves: bool) -> TrainOptions:
    """Return the options of a training that looks at the drawn region; none if nothing was drawn.

    Args:
        sketch: the drawing.
        reference: path of the image that was drawn on.
        moves: True if the region moves with the part.
    """
    looks = sketch.looks()
    if looks is None:
        return {}
    options: TrainOptions = {"mask": mask_png(looks)}
    if moves:
        options["align"] = True
        options["reference"] = reference
    return options
