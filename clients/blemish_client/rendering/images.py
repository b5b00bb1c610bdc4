# SPDX-License-Identifier: Apache-2.0
"""Decoding of images and anomaly maps."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from blemish.v1.image_pb2 import AnomalyMap


def decode(content: bytes) -> Image.Image:
    """Decode an image as upright RGB. 16 bits per channel are scaled to 8.

    Raises:
        OSError: if the content is not an image.
    """
    image: Image.Image = Image.open(io.BytesIO(content))
    if image.mode.startswith("I"):
        levels = np.asarray(image, dtype=np.float64) / 257.0
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return ImageOps.exif_transpose(image).convert("RGB")


def enlarge(image: Image.Image, least_px: int = 512) -> Image.Image:
    """Return ``image``, enlarged if its longer side is below ``least_px``, so that outlines stay thin."""
    scale = least_px / max(image.size)
    if scale <= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def pixel_scores(anomaly_map: AnomalyMap) -> NDArray[np.float32]:
    """Return the pixel scores (height, width)."""
    flat = np.frombuffer(anomaly_map.values, dtype="<f4")
    return flat.reshape(anomaly_map.height, anomaly_map.width).astype(np.float32)
