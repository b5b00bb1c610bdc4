# SPDX-License-Identifier: Apache-2.0
"""Decoding of images and anomaly maps."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from blemish.v1.image_pb2 import AnomalyMap, RawImage
from blemish.v1.image_pb2 import Image as ImageMessage
from blemish.v1.inspection_pb2 import Inspection

# Type of a sample and number of channels.
_RAW_SAMPLES = {
    "Mono8": ("u1", 1),
    "Mono16": ("<u2", 1),
    "RGB8": ("u1", 3),
    "BGR8": ("u1", 3),
    "RGBa8": ("u1", 4),
}


def decode(content: bytes | ImageMessage) -> Image.Image:
    """Decode an image as upright RGB. 16 bits per channel are scaled to 8.

    Raises:
        OSError: if the content is not an image.
        ValueError: if it is raw in a format other than Mono8, Mono16, RGB8, BGR8 and RGBa8.
    """
    if isinstance(content, ImageMessage):
        if content.HasField("raw"):
            return _decode_raw(content.raw)
        content = content.encoded
    image: Image.Image = Image.open(io.BytesIO(content))
    if image.mode.startswith("I"):
        levels = np.asarray(image, dtype=np.float64) / 257.0
        image = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return ImageOps.exif_transpose(image).convert("RGB")


@dataclass(frozen=True)
class Picture:
    """The scored image or region for drawing."""

    image: Image.Image
    """RGB, possibly smaller than what was scored."""
    size: tuple[int, int]
    """Width and height in px of what was scored."""


def picture(content: bytes | ImageMessage, inspection: Inspection | None) -> Picture:
    """Return the image or region of an inspection as it was scored.

    The server decides how it reads raw frames, deep samples, floats and transparency. So the preview of the
    inspection is drawn for such images. Without one, for example of an older server, they are decoded here.

    Args:
        content: image as it was sent.
        inspection: inspection of the image; None without one.

    Raises:
        OSError: if the content is not an image.
        ValueError: if it is raw in a format that only the server reads.
    """
    if inspection is not None and inspection.HasField("preview") and not is_read_alike(content):
        preview = inspection.preview
        return Picture(decode(preview.jpeg), (preview.width, preview.height))
    image = decode(content)
    if isinstance(content, ImageMessage) and content.HasField("region"):
        part = content.region
        image = image.crop((part.left, part.top, part.left + part.width, part.top + part.height))
    return Picture(image, image.size)


def is_read_alike(content: bytes | ImageMessage) -> bool:
    """Return whether client and server read an image alike: 8 bits, without transparency."""
    if isinstance(content, ImageMessage):
        if content.HasField("raw"):
            return content.raw.pixel_format in ("Mono8", "RGB8", "BGR8")
        content = content.encoded
    try:
        with Image.open(io.BytesIO(content)) as image:
            bits = content[24] if image.format == "PNG" else 8
            if isinstance(image, TiffImageFile):
                bits = max(image.tag_v2.get(258, (1,)))
            known = image.format in ("BMP", "JPEG", "PNG", "TIFF", "WEBP") and bits <= 8
            return known and image.mode in ("1", "L", "P", "RGB") and not image.has_transparency_data
    except Exception:  # the server judges it
        return False


def _decode_raw(raw: RawImage) -> Image.Image:
    sample, channels = _RAW_SAMPLES.get(raw.pixel_format, ("", 0))
    if not channels:
        raise ValueError(f"cannot draw a frame of {raw.pixel_format}; choose {', '.join(_RAW_SAMPLES)}")
    row_bytes = raw.width * channels * np.dtype(sample).itemsize
    rows = np.frombuffer(raw.data.ljust((raw.stride or row_bytes) * raw.height, b"\0"), np.uint8)
    samples = rows.reshape(raw.height, -1)[:, :row_bytes].view(sample)
    samples = samples.reshape(raw.height, raw.width, channels)
    if sample != "u1":
        samples = (samples / 257.0).round().astype(np.uint8)
    if raw.pixel_format == "BGR8":
        samples = samples[:, :, ::-1]
    levels = np.ascontiguousarray(samples[:, :, :3] if channels > 1 else samples[:, :, 0])
    return Image.fromarray(levels).convert("RGB")


def enlarge(image: Image.Image, least_px: int = 512) -> Image.Image:
    """Return ``image``, enlarged if its longer side is below ``least_px``, so that outlines stay thin."""
    scale = least_px / max(image.size)
    if scale <= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def scaled(image: Image.Image, side_px: int) -> Image.Image:
    """Return ``image`` with a longer side of ``side_px``."""
    scale = side_px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def pixel_scores(anomaly_map: AnomalyMap) -> NDArray[np.float32]:
    """Return the pixel scores (height, width)."""
    flat = np.frombuffer(anomaly_map.values, dtype="<f4")
    return flat.reshape(anomaly_map.height, anomaly_map.width).astype(np.float32)
