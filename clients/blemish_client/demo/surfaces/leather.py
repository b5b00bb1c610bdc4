# SPDX-License-Identifier: Apache-2.0
"""Brown leather: a grain of small pebbles between creases, lit from above and to one side."""

from dataclasses import replace

import numpy as np

from blemish_client.demo.surfaces.lighting import Camera, draw_camera, draw_lamp
from blemish_client.demo.surfaces.marks import blob, somewhere, stroke, tapered, trace, wander
from blemish_client.demo.surfaces.noise import (
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
    warp_x, warp_y = (1.6 * zoom * fractal_noise(rng, size, 16 * zoom, 3) for _ in range(2))
    stretch = rng.uniform(1.1, 1.3)  # hide stretches the grain across the body
    x, y = (x + warp_x) / (zoom * stretch), (y + warp_y) / zoom

    pebble_px, wrinkle_px = 7.4, 3.6
    pebbles = cells(rng, x / pebble_px, y / pebble_px)
    wrinkles = cells(rng, x / wrinkle_px, y / wrinkle_px)
    deep = np.exp(-((pebbles.edge * pebble_px / 0.75) ** 2))
    deep = deep * smoothstep(-1.6, 1.0, fractal_noise(rng, size, 12 * zoom, 2))
    fine = np.exp(-((wrinkles.edge * wrinkle_px / 0.6) ** 2))
    fine = fine * smoothstep(-0.3, 1.5, fractal_noise(rng, size, 20 * zoom, 2))
    waves = fractal_noise(rng, size, 110 * unit, 2)
    grain = (
        0.45 * np.clip(pebbles.edge * 2.2, 0, 1)
        + 0.25 * pebbles.value
        + 0.10 * fractal_noise(rng, size, 3 * zoom, 2)
    )
    height = zoom * (grain - 0.7 * deep - 0.3 * fine) + unit * waves

    brown = np.array([0.475, 0.315, 0.255])
    mottle = 1 + 0.025 * fractal_noise(rng, size, 40 * unit, 3) + 0.03 * (pebbles.value - 0.5)
    # The dye is rubbed off along the rims of the creases and gathers on their floor.
    rim = np.exp(-(((pebbles.edge * pebble_px - 1.2) / 0.7) ** 2))
    tone = mottle * (1 - 0.22 * deep - 0.08 * fine + 0.13 * rim)
    lamp = draw_lamp(rng, size, (-1.85, -1.35), (0.68, 0.78), 0.13)
    return Sheet(
        unit=unit,
        colour=brown * tone[..., None],
        height=height,
        gloss=0.05 + 0.02 * smooth_noise(rng, size, 30 * unit),
        lamp=lamp,
    )


def _cut(sheet: Sheet, rng: np.random.Generator, severity: float) -> Sheet:
    """Cut a thin slit with ragged pale edges that show the raw hide."""
    unit, size = sheet.unit, sheet.size
    length = rng.uniform(24, 34 + 45 * severity) * unit
    line = wander(rng, somewhere(rng, size), rng.uniform(0, 2 * np.pi), length, bend=0.25, kink=0.35)
    seen = trace(line, size, 14 * unit)
    taper = tapered(seen, 0.3)
    ragged = 1 + 0.6 * smooth_noise(rng, size, 2.5 * unit)
    width = unit * (2.4 + 2.2 * severity) * taper * ragged
    slit = stroke(seen, width, 0.7 * unit) * smoothstep(0, 0.1, taper)
    patches = smoothstep(-1.0 - severity, 0.7, smooth_noise(rng, size, 5 * unit))
    torn = np.exp(-(((seen.side - 0.6 * width) / (1.3 * unit)) ** 2))
    raw = torn * patches * smoothstep(0, 0.2, taper)
    # One lip is lifted and the other sunk, so the skin around the slit catches the light.
    lip = np.exp(-seen.distance / (3.5 * unit)) * np.sign(seen.side) * taper
    marred = sheet.raised(unit * (1.0 + 1.6 * severity) * lip)
    marred = marred.painted(slit * (0.45 + 0.5 * severity), (0.10, 0.07, 0.06))
    return marred.painted(raw * (0.5 + 0.5 * severity), (0.95, 0.86, 0.74))


def _fold(sheet: Sheet, rng: np.random.Generator, severity: float) -> Sheet:
    """Add a long soft ridge, bright on the lamp's side and dark on the other."""
    unit, size = sheet.unit, sheet.size
    length = rng.uniform(40, 70 + 80 * severity) * unit
    # A fold along the light's direction casts no shading; hides are laid out to be seen.
    heading = sheet.lamp.azimuth + np.pi / 2 + rng.normal(0, 0.45)
    line = wander(rng, somewhere(rng, size, 0.2), heading, length, bend=0.35)
    line -= line.mean(axis=0) - line[len(line) // 3]
    breadth = unit * rng.uniform(3.0, 7)
    seen = trace(line, size, 4 * breadth)
    profile = np.exp(-((seen.side / breadth) ** 2)) - np.exp(-16)
    taper = tapered(seen, 0.5)
    ridge = breadth * (0.50 + 0.6 * severity) * profile * taper
    crease = np.exp(-((seen.side / (1.2 * unit) - 1.5) ** 2)) * taper
    marred = sheet.raised(ridge)
    return marred.dyed(crease * severity * 0.35, (0.5, 0.45, 0.42))


def _poke(sheet: Sheet, rng: np.random.Generator, severity: float) -> Sheet:
    """One or a few punctures: a dark pit, a raised rim and the dent around it."""
    unit, size = sheet.unit, sheet.size
    x, y = pixel_grid(size)
    count = 1 if rng.random() < 0.75 else int(rng.integers(2, 4))
    place = somewhere(rng, size)
    marred = sheet
    for _ in range(count):
        radius = unit * rng.uniform(2.1, 2.9 + 2.4 * severity)
        hole = blob(rng, size, place, radius, stretch=rng.uniform(1, 1.8), raggedness=0.35)
        away = np.hypot(x - place[0], y - place[1])
        dent = np.exp(-((away / (4.5 * radius)) ** 2))
        rim = np.exp(-(((hole + 1.2 * unit) / (1.1 * unit)) ** 2))
        pit = smoothstep(-0.7 * unit, 0.9 * unit, hole)
        relief = (
            unit * (0.9 + 0.7 * severity) * (0.9 * rim - 1.5 * pit)
            - 1.1 * radius * (0.35 + 0.75 * severity) * dent
        )
        marred = marred.raised(relief)
        marred = marred.painted(pit * (0.5 + 0.4 * severity), (0.07, 0.05, 0.045))
        place = (place[0] + rng.normal(0, 14) * unit, place[1] + rng.normal(0, 14) * unit)
    return marred


def _color(sheet: Sheet, rng: np.random.Generator, severity: float) -> Sheet:
    """Add a stain or a smear of foreign dye that lets the grain show through."""
    unit, size = sheet.unit, sheet.size
    if rng.random() < 0.6:
        radius = unit * rng.uniform(9, 15 + 14 * severity)
        depth = blob(rng, size, somewhere(rng, size), radius, stretch=rng.uniform(1, 2.2))
        cover = smoothstep(-0.15 * radius, 0.35 * radius, depth)
    else:
        length = rng.uniform(30, 50 + 50 * severity) * unit
        line = wander(rng, somewhere(rng, size), rng.uniform(0, 2 * np.pi), length, bend=0.6)
        seen = trace(line, size, 8 * unit)
        cover = stroke(seen, unit * rng.uniform(4, 8) * tapered(seen), 1.2 * unit)
        cover = cover * smoothstep(0, 0.05, tapered(seen))
    soaked = cover * np.clip(0.85 + 0.2 * fractal_noise(rng, size, 8 * unit, 3), 0, 1)
    dyes = [(1.05, 0.42, 0.42), (0.42, 0.42, 0.5), (0.55, 0.90, 1.35), (1.45, 1.42, 1.1)]
    dye = dyes[int(rng.integers(len(dyes)))]
    strength = 0.64 + 0.46 * severity
    marred = sheet.dyed(soaked * strength, dye)
    return replace(marred, gloss=marred.gloss + 0.04 * severity * cover)


def _camera(rng: np.random.Generator, size: int) -> Camera:
    return draw_camera(
        rng,
        size / 256,
        blur_px=(0.45, 0.6),
        gain=0.07,
        contrast=0.05,
        hue=0.015,
        noise=(0.006, 0.010),
    )


LEATHER: Surface[Sheet] = Surface(
    lay=_lay,
    mar={"cut": _cut, "fold": _fold, "poke": _poke, "color": _color},
    look=look,
    camera=_camera,
)
