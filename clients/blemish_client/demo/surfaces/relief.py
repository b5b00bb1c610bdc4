# SPDX-License-Identifier: Apache-2.0
"""A flat piece of material as colour, relief and gloss under a lamp: tile and leather."""

from dataclasses import dataclass, replace

import numpy as np

from blemish_client.demo.surfaces.lighting import Lamp, Radiance, shading
from blemish_client.demo.surfaces.noise import Field


@dataclass(frozen=True)
class Sheet:
    unit: float
    """Pixels of this image to one pixel of a 256 px image."""
    colour: Radiance
    height: Field
    """The relief in pixels."""
    gloss: Field
    """Strength of the mirrored light."""
    lamp: Lamp

    @property
    def size(self) -> int:
        return len(self.height)

    def painted(self, cover: Field, colour: tuple[float, float, float]) -> "Sheet":
        """Return the sheet with ``colour`` laid over it, opaque where ``cover`` is 1."""
        over = cover[..., None]
        mixed = self.colour * (1 - over) + np.array(colour) * over
        return replace(self, colour=mixed)

    def dyed(self, cover: Field, dye: tuple[float, float, float]) -> "Sheet":
        """Return the sheet with its colour multiplied by ``dye`` where ``cover`` is 1; texture stays."""
        factor = 1 + cover[..., None] * (np.array(dye) - 1)
        return replace(self, colour=self.colour * factor)

    def raised(self, by: Field) -> "Sheet":
        """Return the sheet with ``by`` pixels added to its relief."""
        return replace(self, height=self.height + by)


def look(sheet: Sheet) -> Radiance:
    """Return the light that leaves ``sheet``, (size, size, 3)."""
    diffuse, mirrored = shading(sheet.height, sheet.lamp)
    lit = sheet.colour * diffuse[..., None] + (sheet.gloss * mirrored**40)[..., None]
    seen: Radiance = lit * sheet.lamp.evenness[..., None]
    return seen
