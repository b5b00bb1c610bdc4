# SPDX-License-Identifier: Apache-2.0
"""The interface of every surface: layout, defects, rendering."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from blemish_client.demo.surfaces.lighting import Camera, Radiance

Scene = TypeVar("Scene")


@dataclass(frozen=True)
class Surface(Generic[Scene]):
    lay: Callable[[np.random.Generator, int], Scene]
    """Draw a flawless piece under its lamp, for an image so many pixels wide."""
    mar: Mapping[str, Callable[[Scene, np.random.Generator, float], Scene]]
    """The defects by class; the number is the severity, from 0 (faint) to 1 (obvious)."""
    look: Callable[[Scene], Radiance]
    """The light that leaves the piece, (size, size, 3)."""
    camera: Callable[[np.random.Generator, int], Camera]
