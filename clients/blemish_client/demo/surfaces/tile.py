# SPDX-License-Identifier: Apache-2.0
"""Speckled ceramic tile: light and dark grains of many sizes pressed into a grey body."""

from dataclasses import replace

import numpy as np

from blemish_client.demo.surfaces.lighting import Camera, draw_camera, draw_lamp
from blemish_client.demo.surfaces.marks import blob, somewhere, stroke, trace, wander
from blemish_client.demo.surfaces.noise import (
    Field,
    cells,
    fractal_noise,
    pixel_grid,
    smooth_noise,
    smoothstep,
    turned,
)
from blemish_client.demo.surfaces.relief import Sheet, look
from blemish_client.demo.surfaces.surface import Surface


def _lay(rng: np.random.Generator, size: int) -> Sheet:
    unit = size / 256
    zoom = unit * rng.uniform(0.93, 1.07)
    x, y = turned(*pixel_grid(size), rng.uniform(0, 2 * np.pi))
    warp_x, warp_y = (2.2 * zoom * fractal_noise(rng, size, 7 * zoom, 3, 0.7) for _ in range(2))
    x, y = (x + warp_x) / zoom, (y + warp_y) / zoom

    stone_px, grain_px, sand_px = 7.0, 3.6, 2.0
    stones = cells(rng, x / stone_px, y / stone_px)
    grains = cells(rng, x / grain_px, y / grain_px)
    sand = cells(rng, x / sand_px, y / sand_px)
    grey = np.full((size, size), 0.68)
    grey += 0.03 * fractal_noise(rng, size, 30 * zoom, 3)
    grey -= _grain(stones.value, stones.edge * stone_px, 0.72, 0.9) * (0.04 + 0.2 * stones.value)
    grey += _grain(stones.value, stones.edge * stone_px, 0.0, 0.14) * 0.13
    grey += _grain(grains.value, grains.edge * grain_px, 0.0, 0.25) * 0.12
    dark = _grain(grains.value, grains.edge * grain_px, 0.74, 1.0)
    clumps = smoothstep(-1.0, 1.0, fractal_noise(rng, size, 22 * zoom, 2))
    grey -= dark * (0.18 + 0.22 * clumps)
    grey += 0.16 * (sand.value - 0.5)
    grey -= 0.22 * smoothstep(0.9, 0.95, sand.value)
    grey = np.clip(grey, 0.07, 0.88)

    tint = np.array([1.0, 0.985, 0.955])
    rusty = smoothstep(0.3, 1.5, fractal_noise(rng, size, 18 * zoom, 2))
    rust = 1 + np.array([0.02, 0.0, -0.03]) * rusty[..., None]
    height = zoom * (0.05 * fractal_noise(rng, size, 3 * zoom, 2) + 0.04 * sand.value - 0.08 * dark)
    return Sheet(
        unit=unit,
        colour=grey[..., None] * tint * rust,
        height=height,
        gloss=np.full((size, size), 0.02),
        lamp=draw_lamp(rng, size, (-np.pi, np.pi), (0.95, 1.1), 0.10),
    )


def _grain(value: Field, edge: Field, low: float, high: float) -> Field:
    """Coverage of the cells whose value lies between ``low`` and ``high``; soft at the rim."""
    chosen = (value >= low) & (value < high)
    return chosen * smoothstep(0.0, 0.9, edge)


def _crack(sheet: Sheet, rng: np.random.Generator, severity: float) -> Sheet:
    """Add a dark hairline crack that wanders, branches and varies in width."""
    unit, size = sheet.unit, sheet.size
    length = rng.uniform(80, 120 + 150 * severity) * unit
    heading = rng.uniform(0, 2 * np.pi)
    stem = wander(rng, somewhere(rng, size, 0.15), heading, length, bend=0.3, kink=0.4)
    stem -= stem.mean(axis=0) * min(1.0, length / size)
    lines = [(stem, 1.0)]
    for _ in range(int(rng.integers(0, 2 + round(2 * severity)))):
        root = stem[int(rng.integers(len(stem) // 5, 4 * len(stem) // 5))]
        turn = rng.choice([-1, 1]) * rng.uniform(0.4, 1.1)
        reach = length * rng.uniform(0.15, 0.45)
        start = (float(root[0]), float(root[1]))
        branch = wander(rng, start, heading + turn, reach, bend=0.3, kink=0.45)
        lines.append((branch, 0.7))
    dark = np.zeros((size, size))
    widths = np.clip(1 + 0.5 * fractal_noise(rng, size, 9 * unit, 2), 0.25, 2)
    for line, share in lines:
        seen = trace(line, size, 6 * unit)
        width = unit * share * (1.8 + 2.4 * severity) * widths
        width = width * (0.3 + 0.7 * smoothstep(0, 0.6, 1 - seen.along))
        ends = smoothstep(0, 0.03, seen.along) * smoothstep(0, 0.06, 1 - seen.along)
        dark = np.maximum(dark, stroke(seen, width, 0.6 * unit) * ends)
    marred = sheet.raised(-0.5 * unit * severity * dark)
    return marred.painted(dark * (0.6 + 0.35 * severity), (0.10, 0.09, 0.085))


def _glue_strip(sheet: Sheet, rng: np.random.Generator, severity: float) -> Sheet:
    """Add a strip of dried glue: half transparent, slightly yellow, bright along its edges."""
    unit, size = sheet.unit, sheet.size
    length = rng.uniform(80, 130 + 120 * severity) * unit
    line = wander(rng, somewhere(rng, size, 0.2), rng.uniform(0, 2 * np.pi), length, bend=0.3)
    line -= line.mean(axis=0) * min(1.0, length / size)
    broad = unit * rng.uniform(12, 30)
    seen = trace(line, size, broad)
    width = broad * (1 + 0.15 * smooth_noise(rng, size, 14 * unit))
    ends = smoothstep(0, 0.02, seen.along) * smoothstep(0, 0.02, 1 - seen.along)
    cover = stroke(seen, width, 0.9 * unit) * ends
    thick = np.clip(1 + 0.35 * fractal_noise(rng, size, 10 * unit, 3), 0.3, 1.6)
    bulge = unit * cover * thick * (0.15 + 0.5 * severity)
    glued = sheet.dyed(cover, (0.98, 0.955, 0.88))
    veil = np.clip(cover * thick * (0.32 + 0.4 * severity), 0, 0.85)
    glued = glued.painted(veil, (0.72, 0.69, 0.60))
    shine = (0.08 + 0.25 * severity) * cover * thick
    glued = glued.raised(bulge)
    return replace(glued, gloss=glued.gloss + shine)


def _oil(sheet: Sheet, rng: np.random.Generator, severity: float) -> Sheet:
    """Add a soaked patch: darker, deeper in colour, smooth, with a faint shine."""
    unit, size = sheet.unit, sheet.size
    radius = unit * rng.uniform(18, 26 + 24 * severity)
    at = somewhere(rng, size, 0.15)
    depth = blob(rng, size, at, radius, stretch=rng.uniform(1, 1.8), octaves=1)
    cover = smoothstep(-0.08 * radius, 0.25 * radius, depth)
    for _ in range(int(rng.integers(0, 4))):
        angle, away = rng.uniform(0, 2 * np.pi), radius * rng.uniform(1.1, 1.8)
        drop = (at[0] + float(np.cos(angle) * away), at[1] + float(np.sin(angle) * away))
        spot = blob(rng, size, drop, radius * rng.uniform(0.08, 0.22), raggedness=0.1)
        cover = np.maximum(cover, smoothstep(-unit, unit, spot))
    wet = 0.62 + 0.6 * severity
    marred = sheet.dyed(cover * wet, (0.60, 0.56, 0.47))
    meniscus = unit * severity * smoothstep(0, 0.25 * radius, depth)
    height = marred.height * (1 - cover) + meniscus * cover
    return replace(marred, height=height, gloss=marred.gloss + 0.12 * severity * cover)


def _rough(sheet: Sheet, rng: np.random.Generator, severity: float) -> Sheet:
    """Add a worn patch: the glaze is gone and the body under it is pale and gritty."""
    unit, size = sheet.unit, sheet.size
    radius = unit * rng.uniform(20, 28 + 22 * severity)
    depth = blob(rng, size, somewhere(rng, size, 0.12), radius, stretch=rng.uniform(1, 2.2), raggedness=0.4)
    cover = smoothstep(-0.15 * radius, 0.4 * radius, depth)
    grit = fractal_noise(rng, size, 2.6 * unit, 2, 0.8)
    worn = cover * smoothstep(0.6 - 0.8 * severity, 1.6 - 0.6 * severity, grit + 0.6 * cover)
    marred = sheet.raised(unit * (1.05 + 0.5 * severity) * cover * grit)
    marred = marred.painted(cover * (0.44 + 0.26 * severity), (0.62, 0.60, 0.57))
    return marred.painted(worn * (0.35 + 0.4 * severity), (0.84, 0.82, 0.79))


def _camera(rng: np.random.Generator, size: int) -> Camera:
    return draw_camera(
        rng,
        size / 256,
        blur_px=(0.5, 0.65),
        gain=0.06,
        contrast=0.05,
        hue=0.012,
        noise=(0.006, 0.010),
    )


TILE: Surface[Sheet] = Surface(
    lay=_lay,
    mar={"crack": _crack, "glue_strip": _glue_strip, "oil": _oil, "rough": _rough},
    look=look,
    camera=_camera,
)
