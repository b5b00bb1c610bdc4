# SPDX-License-Identifier: Apache-2.0
"""A mesh of woven metal wire, in rhombi, over a dark and softly lit background."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from blemish_client.demo.surfaces.lighting import Camera, Lamp, Radiance, draw_camera, draw_lamp
from blemish_client.demo.surfaces.marks import blob, somewhere, stroke, tapered, trace, wander
from blemish_client.demo.surfaces.noise import (
    Field,
    fractal_noise,
    pixel_grid,
    smooth_noise,
    smoothstep,
    turned,
)
from blemish_client.demo.surfaces.surface import Surface


@dataclass(frozen=True)
class Strands:
    """One of the mesh's two families of parallel wires."""

    count: Field
    """Which wire a pixel lies on, counted across the family: whole numbers on the wires."""
    there: Field
    """1 where the wire is whole, 0 where it is missing."""


@dataclass(frozen=True)
class Lattice:
    unit: float
    """Pixels of this image to one pixel of a 256 px image."""
    pitch_px: float
    """Pixels from one wire to the next of its family."""
    wire_px: float
    """Thickness of a wire."""
    families: tuple[Strands, Strands]
    """The rising and the falling wires."""
    ground: Field
    """Brightness of the background."""
    metal: Field
    """Brightness of the wire."""
    tint: tuple[float, float, float]
    lamp: Lamp
    cover: Field
    """Cover of foreign matter on the mesh, 0 to 1; 1 hides the mesh."""
    cover_light: Radiance
    """The light that leaves what lies on top, already weighted by ``cover``."""

    @property
    def size(self) -> int:
        return len(self.ground)

    def covered(self, cover: Field, colour: Radiance) -> "Lattice":
        """Return the lattice with something of ``colour`` (size, size, 3) laid over it."""
        over = cover[..., None]
        return replace(
            self,
            cover=1 - (1 - self.cover) * (1 - cover),
            cover_light=self.cover_light * (1 - over) + colour * over,
        )


def _lay(rng: np.random.Generator, size: int) -> Lattice:
    unit = size / 256
    pitch = unit * rng.uniform(16.0, 17.2)
    half_angle = np.deg2rad(rng.uniform(30.5, 32.5))  # of the wires against the horizontal
    x, y = turned(*pixel_grid(size), np.deg2rad(rng.normal(0, 1.5)))
    x = x + 0.35 * unit * fractal_noise(rng, size, 70 * unit, 2)
    y = y + 0.35 * unit * fractal_noise(rng, size, 70 * unit, 2)
    rising, falling = (
        (x * np.sin(half_angle) + sign * y * np.cos(half_angle)) / pitch + rng.uniform(0, 1)
        for sign in (-1, 1)
    )
    whole = np.ones((size, size))
    return Lattice(
        unit=unit,
        pitch_px=pitch,
        wire_px=unit * rng.uniform(3.8, 4.2),
        families=(Strands(rising, whole), Strands(falling, whole)),
        ground=0.24 + rng.uniform(-0.02, 0.02) + 0.02 * smooth_noise(rng, size, 60 * unit),
        metal=0.56 + 0.025 * fractal_noise(rng, size, 12 * unit, 3),
        tint=(1.0, 1.0, 0.985),
        lamp=draw_lamp(rng, size, (-1.9, -1.3), (0.75, 0.95), 0.13),
        cover=np.zeros((size, size)),
        cover_light=np.zeros((size, size, 3)),
    )


def _look(lattice: Lattice) -> Radiance:
    """Return the light that leaves mesh and background, (size, size, 3)."""
    unit, lamp = lattice.unit, lattice.lamp
    rise, fall = lattice.families
    # Woven: along a wire, over and under alternate from one crossing to the next.
    sway = np.cos(np.pi * rise.count) * np.cos(np.pi * fall.count)
    shaded = np.zeros_like(sway)
    layers = []
    for strands, lift in ((rise, sway), (fall, -sway)):
        down, right = np.gradient(strands.count)
        steep = np.hypot(right, down) + 1e-6
        across = (strands.count - np.rint(strands.count)) / steep  # pixels from the wire's middle
        cover = smoothstep(-0.6 * unit, 0.6 * unit, lattice.wire_px / 2 - np.abs(across))
        cover = cover * strands.there
        lean = np.clip(2 * across / lattice.wire_px, -1, 1)
        facing = lean * (right * np.cos(lamp.azimuth) + down * np.sin(lamp.azimuth)) / steep
        round_top = np.sqrt(np.maximum(1 - lean**2, 0))
        lit = lattice.metal * (0.55 + 0.35 * round_top + 0.45 * facing + 0.12 * lift)
        glint = 0.28 * np.exp(-(((facing - 0.35) / 0.22) ** 2)) * (0.6 + 0.4 * lift)
        layers.append((cover, lift, lit + glint))
        shaded = np.maximum(shaded, cover)
    shift = 2.6 * unit
    drop = (-shift * np.sin(lamp.azimuth), -shift * np.cos(lamp.azimuth))
    shadow = ndimage.shift(ndimage.gaussian_filter(shaded, 1.8 * unit), drop, order=1, mode="nearest")
    light = lattice.ground * (1 - 0.55 * shadow)
    (one, one_lift, one_light), (two, two_lift, two_light) = layers
    one_on_top = smoothstep(-0.15, 0.15, one_lift - two_lift)
    # The wire below is darkened where the one above passes near.
    for cover, other, colour, below in (
        (one, two, one_light, 1 - one_on_top),
        (two, one, two_light, one_on_top),
    ):
        dim = colour * (1 - 0.35 * below * ndimage.gaussian_filter(other, 1.2 * unit))
        seen = cover * (1 - other * below)
        light = light * (1 - seen) + dim * seen
    over = lattice.cover[..., None]
    coloured = light[..., None] * np.array(lattice.tint)
    radiance: Radiance = (coloured * (1 - over) + lattice.cover_light) * lamp.evenness[..., None]
    return radiance


def _bent(lattice: Lattice, rng: np.random.Generator, severity: float) -> Lattice:
    """Wires pushed aside around one place: both families, or one alone."""
    unit, size = lattice.unit, lattice.size
    x, y = pixel_grid(size)
    at = somewhere(rng, size, 0.12)
    radius = lattice.pitch_px * rng.uniform(0.85, 1.5)
    away = ((x - at[0]) ** 2 + (y - at[1]) ** 2) / radius**2
    push = unit * (3.9 + 4.5 * severity) * np.exp(-away)
    left_straight = int(rng.integers(3))  # 2: neither family
    # Across the wires, more or less: pushed along itself a wire looks straight.
    count = lattice.families[1 if left_straight == 0 else 0].count
    middle = size // 2
    right = count[middle, middle + 1] - count[middle, middle]
    down = count[middle + 1, middle] - count[middle, middle]
    angle = np.arctan2(down, right) + rng.normal(0, 0.4) + np.pi * rng.integers(2)

    def pushed(strands: Strands) -> Strands:
        down, right = np.gradient(strands.count)
        moved = (right * np.cos(angle) + down * np.sin(angle)) * push
        return replace(strands, count=strands.count - moved)

    rising, falling = (
        strands if family == left_straight else pushed(strands)
        for family, strands in enumerate(lattice.families)
    )
    return replace(lattice, families=(rising, falling))


def _broken(lattice: Lattice, rng: np.random.Generator, severity: float) -> Lattice:
    """Remove a piece of one wire and bend its ends a little."""
    at = somewhere(rng, lattice.size, 0.1)
    middle = lattice.size / 2
    row, column = int(at[1] + middle), int(at[0] + middle)
    which = int(rng.integers(2))
    strands, crossing = lattice.families[which], lattice.families[1 - which]
    wire = np.rint(strands.count[row, column])
    start = crossing.count[row, column]
    gap = rng.uniform(0.45, 0.75 + 1.0 * severity)
    own = np.abs(strands.count - wire) < 0.5
    into = np.abs(crossing.count - start) / (gap / 2)
    soft = lattice.unit / lattice.pitch_px / gap
    hole = own * (1 - smoothstep(1 - soft, 1 + soft, into))
    # Towards the break the ends lean out of their line.
    lean = own * np.exp(-((into / 2.5) ** 2)) * rng.normal(0, 0.12 * severity)
    broken = Strands(strands.count + lean, strands.there * (1 - hole))
    return replace(lattice, families=(broken, crossing) if which == 0 else (crossing, broken))


def _thread(lattice: Lattice, rng: np.random.Generator, severity: float) -> Lattice:
    """Lay a thin fibre on the mesh."""
    unit, size = lattice.unit, lattice.size
    length = rng.uniform(35, 60 + 90 * severity) * unit
    heading = rng.uniform(0, 2 * np.pi)
    line = wander(rng, somewhere(rng, size, 0.2), heading, length, bend=1.2)
    seen = trace(line, size, 5 * unit)
    cover = stroke(seen, unit * (1.4 + 1.5 * severity), 0.7 * unit)
    cover = cover * smoothstep(0, 0.05, tapered(seen, 0.1)) * (0.6 + 0.4 * severity)
    shade = rng.choice([0.05, 0.85, 0.95])
    tone = shade * (1 + 0.15 * smooth_noise(rng, size, 5 * unit))
    colour = tone[..., None] * np.array([1.0, 0.98, 0.94])
    return lattice.covered(cover, colour)


def _metal_contamination(lattice: Lattice, rng: np.random.Generator, severity: float) -> Lattice:
    """Lay a small metal chip on the mesh, bright on one face and dark on another."""
    unit, size = lattice.unit, lattice.size
    radius = unit * rng.uniform(4.2, 5.8 + 4.5 * severity)
    depth = blob(rng, size, somewhere(rng, size), radius, stretch=rng.uniform(1, 2.8), raggedness=0.45)
    cover = smoothstep(-0.6 * unit, 0.6 * unit, depth)
    facets = smoothstep(-0.25, 0.25, smooth_noise(rng, size, radius * 1.2))
    dark, bright = (0.10, 0.5) if rng.random() < 0.4 else (0.38, 0.65 + 0.3 * severity)
    tone = dark + (bright - dark) * facets + 0.05 * fractal_noise(rng, size, 2 * unit, 2)
    colour = tone[..., None] * np.array([1.0, 0.99, 0.97])
    return lattice.covered(cover * (0.8 + 0.2 * severity), colour)


def _camera(rng: np.random.Generator, size: int) -> Camera:
    return draw_camera(
        rng,
        size / 256,
        blur_px=(0.7, 0.95),
        gain=0.07,
        contrast=0.06,
        hue=0.008,
        noise=(0.006, 0.011),
    )


GRID: Surface[Lattice] = Surface(
    lay=_lay,
    mar={
        "bent": _bent,
        "broken": _broken,
        "thread": _thread,
        "metal_contamination": _metal_contamination,
    },
    look=_look,
    camera=_camera,
)
