# SPDX-License-Identifier: Apache-2.0
"""The lamp and the camera of a synthetic image, each with natural variation."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from blemish_client.demo.surfaces.noise import Field, pixel_grid, smooth_noise

Radiance = npt.NDArray[np.float64]
"""Red, green and blue a pixel, (size, size, 3); 0 is black, 1 is white."""


@dataclass(frozen=True)
class Lamp:
    azimuth: float
    """Direction of the light, in radians from the right; clockwise, because y points down."""
    elevation: float
    """Elevation of the light over the surface, in radians."""
    ambient: float
    """Share of ambient light, 0 to 1."""
    evenness: Field
    """Relative light at each pixel, around 1: fall-off, vignetting and soft blotches."""


@dataclass(frozen=True)
class Camera:
    blur_px: float
    gain: float
    contrast: float
    balance: tuple[float, float, float]
    """Gain of red, green and blue."""
    read_noise: float
    shot_noise: float


def draw_lamp(
    rng: np.random.Generator,
    size: int,
    azimuth: tuple[float, float],
    elevation: tuple[float, float],
    unevenness: float,
) -> Lamp:
    """Draw a lamp from ranges in radians; ``unevenness`` is the relative fall-off it may show."""
    x, y = (axis / (size / 2) for axis in pixel_grid(size))
    towards = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(0, unevenness)
    vignette = rng.uniform(0, unevenness)
    blotches = rng.uniform(0, unevenness / 3)
    evenness = (
        1
        + slope * (np.cos(towards) * x + np.sin(towards) * y)
        - vignette * (x**2 + y**2 - 0.66) / 2
        + blotches * smooth_noise(rng, size, size / 2)
    )
    return Lamp(
        azimuth=rng.uniform(*azimuth),
        elevation=rng.uniform(*elevation),
        ambient=rng.uniform(0.35, 0.5),
        evenness=evenness,
    )


def draw_camera(
    rng: np.random.Generator,
    unit: float,
    *,
    blur_px: tuple[float, float],
    gain: float,
    contrast: float,
    hue: float,
    noise: tuple[float, float],
) -> Camera:
    """Draw a camera.

    Args:
        rng: where the variation comes from.
        unit: pixels of this image to one pixel of a 256 px image.
        blur_px: range of the defocus, as a Gaussian's sigma in a 256 px image.
        gain: relative spread of the brightness.
        contrast: relative spread of the contrast.
        hue: relative spread of red against blue.
        noise: range of the noise's spread at mid-grey, as a share of white.
    """
    warmth = rng.uniform(-hue, hue)
    level = rng.uniform(*noise)
    return Camera(
        blur_px=rng.uniform(*blur_px) * unit,
        gain=1 + rng.uniform(-gain, gain),
        contrast=1 + rng.uniform(-contrast, contrast),
        balance=(1 + warmth, 1 + rng.uniform(-hue, hue) / 3, 1 - warmth),
        read_noise=0.5 * level,
        shot_noise=1.2 * level,
    )


def shading(height: Field, lamp: Lamp) -> tuple[Field, Field]:
    """Compute the shading of a relief, without colour.

    Args:
        height: the relief in pixels, (size, size).
        lamp: the light.

    Returns:
        The diffuse part (1 on flat ground) and the cosine between the normal and the
        direction half-way between lamp and camera, from which a gloss is made.
    """
    down, right = np.gradient(height)
    flat = np.cos(lamp.elevation)
    to_lamp = (flat * np.cos(lamp.azimuth), flat * np.sin(lamp.azimuth), np.sin(lamp.elevation))
    length = np.sqrt(1 + right**2 + down**2)
    facing = np.maximum((to_lamp[2] - right * to_lamp[0] - down * to_lamp[1]) / length, 0)
    diffuse = lamp.ambient + (1 - lamp.ambient) * facing / to_lamp[2]
    half = np.array([to_lamp[0], to_lamp[1], to_lamp[2] + 1])
    half /= np.linalg.norm(half)
    mirrored = np.maximum((half[2] - right * half[0] - down * half[1]) / length, 0)
    return diffuse, mirrored


def develop(radiance: Radiance, camera: Camera) -> Radiance:
    """Return the image of ``radiance`` after optics and electronics, without noise."""
    blurred = ndimage.gaussian_filter(radiance, (camera.blur_px, camera.blur_px, 0))
    levels = blurred * np.array(camera.balance) * camera.gain
    # Around a fixed grey: the picture's own mean would let a defect change every pixel.
    toned = 0.45 + (levels - 0.45) * camera.contrast
    picture: Radiance = np.clip(toned, 0, 1)
    return picture


def expose(picture: Radiance, camera: Camera, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return the sensor's image, (size, size, 3); the noise of a pixel depends on its level alone."""
    grain = rng.standard_normal(picture.shape)
    spread = np.sqrt(camera.read_noise**2 + camera.shot_noise**2 * picture)
    levels: npt.NDArray[np.uint8] = np.rint(np.clip(picture + spread * grain, 0, 1) * 255).astype(np.uint8)
    return levels
