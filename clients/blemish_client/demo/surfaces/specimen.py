# SPDX-License-Identifier: Apache-2.0
"""One image of one surface, good or defective, and the mask of the defect."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from blemish_client.demo.surfaces.grid import GRID
from blemish_client.demo.surfaces.leather import LEATHER
from blemish_client.demo.surfaces.lighting import Radiance, develop, expose
from blemish_client.demo.surfaces.surface import Surface
from blemish_client.demo.surfaces.tile import TILE

_SURFACES: MappingProxyType[str, Surface[Any]] = MappingProxyType(
    {"tile": TILE, "leather": LEATHER, "grid": GRID}
)
CATEGORIES: tuple[str, ...] = tuple(_SURFACES)
CLASSES: dict[str, tuple[str, ...]] = {name: tuple(s.mar) for name, s in _SURFACES.items()}
"""The classes of defects of each category."""
SPLITS = ("train", "test")

FEATHER_PX = 3
"""Distance from its mask beyond which a defect changes nothing, in pixels."""
_VISIBLE = 5 / 255
"""Smallest change of a colour that counts as visible."""


@dataclass(frozen=True)
class Specimen:
    image: npt.NDArray[np.uint8]
    """(size, size, 3)"""
    mask: npt.NDArray[np.bool_]
    """Pixels that show the defect, (size, size); all false for a good piece."""


@dataclass(frozen=True)
class Origin:
    """The parameters of an image; the same origin gives the same bytes."""

    category: str
    split: str
    kind: str
    """``good`` or a class of defect."""
    index: int
    seed: int
    size: int


def draw(origin: Origin, *, flawless: bool = False) -> Specimen:
    """Draw one piece.

    Args:
        origin: what to draw.
        flawless: leave the defect out and all else as it is.

    Raises:
        ValueError: if the category, the split or the class is unknown, or a number is
            out of range.
    """
    surface = surface_named(origin.category)
    kinds = ("good", *CLASSES[origin.category])
    if origin.kind not in kinds:
        raise ValueError(f"{origin.category} has no class {origin.kind!r}; choose from {', '.join(kinds)}")
    if origin.split not in SPLITS:
        raise ValueError(f"unknown split {origin.split!r}; choose from {', '.join(SPLITS)}")
    if origin.size < 32:
        raise ValueError(f"an image of {origin.size} px shows no texture; ask for 32 px or more")
    if origin.seed < 0:
        raise ValueError(f"the seed {origin.seed} is negative; give 0 or more")
    material, optics, flaw, sensor = (
        np.random.default_rng(child)
        for child in np.random.SeedSequence(
            [
                origin.seed,
                CATEGORIES.index(origin.category),
                SPLITS.index(origin.split),
                kinds.index(origin.kind),
                origin.index,
            ]
        ).spawn(4)
    )
    scene = surface.lay(material, origin.size)
    camera = surface.camera(optics, origin.size)
    picture = develop(surface.look(scene), camera)
    mask = np.zeros(picture.shape[:2], np.bool_)
    if origin.kind != "good" and not flawless:
        for attempt in range(40):
            # Each attempt is bolder, so that one is sure to be seen.
            severity = min(1.0, flaw.random() + attempt / 20)
            marred = surface.mar[origin.kind](scene, flaw, severity)
            confined, mask = _confine(picture, develop(surface.look(marred), camera))
            if mask.any():
                picture = confined
                break
        else:
            raise RuntimeError(f"no {origin.kind} showed on {origin}; this is a bug")
    return Specimen(expose(picture, camera, sensor), mask)


def surface_named(category: str) -> Surface[Any]:
    """Return the surface of that name.

    Raises:
        ValueError: if the name is unknown.
    """
    if category not in _SURFACES:
        raise ValueError(f"unknown category {category!r}; choose from {', '.join(CATEGORIES)}")
    return _SURFACES[category]


def _confine(twin: Radiance, marred: Radiance) -> tuple[Radiance, npt.NDArray[np.bool_]]:
    """Keep the visible part of ``marred`` and return its mask.

    Returns:
        The picture, equal to ``twin`` beyond FEATHER_PX pixels from the mask, and the mask,
        empty if too little can be seen.
    """
    size = len(twin)
    change = np.abs(marred - twin).max(axis=2)
    seen = change > _VISIBLE
    # Pixels a hand would not leave out of the outline: pinholes, and gaps of a pixel or two.
    reach = max(1, round(2 * size / 256))
    disc = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach
    padded = np.pad(seen, reach)
    closed = ndimage.binary_erosion(ndimage.binary_dilation(padded, disc), disc, border_value=1)[
        reach:-reach, reach:-reach
    ]
    parts, count = ndimage.label(closed, np.ones((3, 3)))
    areas = np.bincount(parts.ravel(), minlength=count + 1)
    areas[0] = 0
    mask = (areas >= max(4, 12 * (size / 256) ** 2))[parts]
    if not mask.any():
        return twin, mask
    beyond = ndimage.distance_transform_edt(~mask)
    weight = np.clip(1 - beyond / FEATHER_PX, 0, 1)[..., None]
    return twin + weight * (marred - twin), mask
