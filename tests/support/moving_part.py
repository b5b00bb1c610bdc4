# SPDX-License-Identifier: Apache-2.0
"""Pictures of a part that moves in front of a camera."""

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish_core.imaging.alignment import Motion

Frame = NDArray[np.uint8]
"""RGB, (H, W, 3)."""
STILL = Motion(0, 0, 0)


def texture(seed: int, side: int = 512) -> Frame:
    """Return a surface (side, side, 3) with details of several sizes."""
    random = np.random.default_rng(seed)
    surface = np.zeros((side, side), np.float32)
    for size, contrast in ((4, 12.0), (16, 20.0), (64, 20.0)):
        coarse = random.normal(0, contrast, (side // size, side // size)).astype(np.float32)
        surface += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    grey = (120 + surface).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def seen(surface: Frame, motion: Motion, shape: tuple[int, int], zoom: float = 1.0) -> Frame:
    """Return the middle of a surface as a camera sees it after a motion."""
    rows, columns, _ = surface.shape
    center = np.array([(columns - 1) / 2, (rows - 1) / 2])
    to_frame = motion.matrix(shape)
    frame_center = np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
    to_frame[:, :2] *= zoom
    to_frame[:, 2] = np.array([motion.dx_px, motion.dy_px]) + frame_center - to_frame[:, :2] @ center
    moved = cv2.warpAffine(surface, to_frame, (shape[1], shape[0]), flags=cv2.INTER_CUBIC)
    return np.asarray(moved, np.uint8)
