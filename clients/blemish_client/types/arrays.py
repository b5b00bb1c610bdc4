# SPDX-License-Identifier: Apache-2.0
"""Arrays of NumPy and images of Pillow. Both packages are optional, and imported when they are needed."""

import io
from os import PathLike
from typing import TYPE_CHECKING, Protocol, cast

from blemish.v1.inspection_pb2 import Inspection

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

_RAW_FORMATS = {"L": "Mono8", "RGB": "RGB8", "RGBA": "RGBa8", "I;16": "Mono16"}


class PilImage(Protocol):
    """An image of Pillow."""

    @property
    def mode(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]: ...

    def tobytes(self) -> bytes: ...

    def getexif(self) -> object: ...


def anomaly_map(inspection: Inspection) -> "NDArray[np.float32] | None":
    """Return the anomaly score of every pixel, an array (height, width) of float32.

    Args:
        inspection: inspection that was requested with ``anomaly_map``.

    Returns:
        The scores at the size of the map, or None if the inspection has no map.
    """
    import numpy as np

    if not inspection.HasField("anomaly_map"):
        return None
    found = inspection.anomaly_map
    return np.frombuffer(found.values, "<f4").reshape(found.height, found.width).astype(np.float32)


def defect_mask(inspection: Inspection) -> "NDArray[np.bool_] | None":
    """Return the pixels within defects, an array (height, width) of the size of the scored image.

    Args:
        inspection: inspection that was requested with ``mask``.

    Returns:
        True within a region, or None if the inspection has no mask.
    """
    if not inspection.mask:
        return None
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(inspection.mask)) as mask:
        return np.asarray(mask.convert("L")) > 127


def load_array(file: "str | PathLike[str]") -> "NDArray[np.generic]":
    """Return the array in an ``.npy`` file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it has no array of numbers.
    """
    import numpy as np

    try:
        return np.ascontiguousarray(np.load(file, allow_pickle=False))
    except EOFError as error:
        raise ValueError(str(error)) from error


def is_pil(image: object) -> bool:
    """Return whether an object is an image of Pillow, without importing it."""
    return hasattr(image, "getexif") and hasattr(image, "mode")


def pil_samples(image: PilImage) -> tuple[str, tuple[int, int], bytes]:
    """Return an image of Pillow as the server reads its file: upright, with 8 or 16 bits.

    Returns:
        Pixel format, size and samples; or an empty format, and an encoded image in place of samples.

    Raises:
        ValueError: if its levels exceed 16 bits.
    """
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(cast("Image", image))
    if upright.mode == "F":
        out = io.BytesIO()
        upright.save(out, "TIFF")
        return "", upright.size, out.getvalue()
    if upright.mode == "1":
        upright = upright.convert("L")
    elif upright.mode in ("I", "I;16B"):
        upright = upright.convert("I")
        lowest, highest = cast("tuple[int, int]", upright.getextrema())
        if lowest < 0 or highest > 0xFFFF:
            raise ValueError(f"the image has levels of {lowest} to {highest}; use 0 to 65535")
        upright = upright.convert("I;16")
    elif upright.mode not in _RAW_FORMATS:
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    return _RAW_FORMATS[upright.mode], upright.size, upright.tobytes()


def pil_grey(image: PilImage) -> tuple[tuple[int, int], bytes]:
    """Return the size of an image of Pillow, and its levels of 8 bits."""
    grey = cast("Image", image).convert("L")
    return grey.size, grey.tobytes()
