# SPDX-License-Identifier: Apache-2.0
"""The mask of a model: the pixels of a frame that it looks at, and those that it ignores.

A mask is made for one size of frame. A frame of another size but the same aspect ratio gets a scaled mask.
"""

import hashlib
from functools import lru_cache
from io import BytesIO
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from blemish_core.imaging.decode import ImageLimits, decode
from blemish_core.imaging.image_input import Region
from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.imaging.samples import distinct_channels, grey_as_rgb
from blemish_core.platform.errors import InvalidImage

MAX_BYTES = 1 << 20
"""Largest PNG file of a mask."""
_PNG = b"\x89PNG\r\n\x1a\n"
_BLACK, _WHITE = 64, 192
"""Levels from which on a pixel is neither black nor white."""
_MAX_GREY_SHARE = 0.05
"""Share of pixels between black and white, as smooth outlines have; a photograph has more."""
_STORED = ImageLimits(min_side=1, max_side=1 << 16, max_pixels=178_956_970)
"""Limits on masks in bundles, whose size was checked when they were accepted."""
_SHAPES = 2
"""Sizes of frames whose masks are kept; usually there is one."""


def size_mismatch(frame: tuple[int, int], mask: tuple[int, int]) -> str:
    """Return why a mask (H, W) does not fit a frame (H, W), or an empty string if it does."""
    (height, width), (mask_height, mask_width) = frame, mask
    # A scaled side is rounded to whole pixels, so the ratios may differ by half a pixel of a side.
    if 2 * abs(width * mask_height - height * mask_width) <= max(*frame, *mask):
        return ""
    return (
        f"is {width} x {height} px, but the mask is for {mask_width} x {mask_height}; use frames of that "
        "size or aspect ratio"
    )


def visible(
    frame: NDArray[np.uint8], mask: "FrameMask | None", region: Region | None = None
) -> NDArray[np.uint8]:
    """Return a frame (H, W, 3), or a region of it, without the content that ``mask`` ignores.

    Raises:
        InvalidImage: as for ``FrameMask.apply``.
    """
    if mask is not None:
        return mask.apply(frame, region)[0]
    return frame if region is None else region.crop(frame)


class FrameMask:
    """The pixels of a frame that a model looks at.

    Args:
        looks: (H, W), True where the model looks, in px of the reference image.
        field: field that errors name.

    Raises:
        InvalidImage: if the mask ignores every pixel.
    """

    def __init__(self, looks: NDArray[np.bool_], field: str = "mask") -> None:
        if not looks.any():
            raise InvalidImage(
                "the mask ignores every pixel; draw the parts to inspect in white", field=field
            )
        self._looks = looks
        self._fitted = lru_cache(_SHAPES)(self._fit)
        self._nearest = lru_cache(_SHAPES)(self._find_nearest)

    @classmethod
    def from_png(cls, data: bytes, limits: ImageLimits = _STORED, field: str = "mask") -> Self:
        """Read a PNG, white where the model looks and black elsewhere.

        Any depth is accepted, and colour files whose pixels are grey. Half-bright pixels of smooth outlines
        are looked at.

        Raises:
            InvalidImage: if the data is not a PNG within the limits, has colours or many grey pixels, or
                ignores everything; the error names ``field``.
        """
        if len(data) > MAX_BYTES:
            raise InvalidImage(
                f"the mask has {len(data)} bytes, but at most {MAX_BYTES} are allowed; save it with 1 bit "
                "per pixel, or send polygons",
                field=field,
            )
        if not data.startswith(_PNG):
            raise InvalidImage("the mask is not a PNG; save it as one, or send polygons", field=field)
        try:
            pixels = decode(data, limits)
        except InvalidImage as error:
            raise InvalidImage(f"mask: {error}", field=field) from error
        channels = distinct_channels(pixels)
        if (channels.max(axis=2) != channels.min(axis=2)).any():
            raise InvalidImage("the mask has colours; save it in black and white", field=field)
        levels = channels[..., 0]
        grey = float(((levels > _BLACK) & (levels < _WHITE)).mean())
        if grey > _MAX_GREY_SHARE:
            raise InvalidImage(
                f"{grey:.0%} of the mask's pixels are neither black nor white; draw the parts to inspect "
                "in white and all others in black",
                field=field,
            )
        return cls(levels >= 128, field)

    def to_png(self) -> bytes:
        """Return the mask as a PNG with 1 bit per pixel."""
        out = BytesIO()
        PillowImage.fromarray(self._looks).save(out, "PNG", optimize=True)
        return out.getvalue()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the reference image, in px."""
        height, width = self._looks.shape
        return height, width

    @property
    def ignored_share(self) -> float:
        """Share of the pixels that the model ignores."""
        return 1 - float(self._looks.mean())

    def summary(self) -> MaskSummary:
        """Describe the mask, with the SHA-256 of ``to_png``."""
        height, width = self.shape
        return MaskSummary(
            sha256=hashlib.sha256(self.to_png()).hexdigest(),
            width=width,
            height=height,
            ignored_share=self.ignored_share,
        )

    def note(self, shape: tuple[int, int]) -> str:
        """Return a note about a scaled mask for frames of ``shape`` (H, W), empty if it is used as is."""
        if shape == self.shape:
            return ""
        (height, width), (own_height, own_width) = shape, self.shape
        return (
            f"the mask of the model was scaled from {own_width} x {own_height} px to the "
            f"{width} x {height} of the frame"
        )

    def fitted(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask at the size of a frame, (H, W), read-only.

        Raises:
            InvalidImage: if the frame has another aspect ratio.
        """
        if reason := size_mismatch(shape, self.shape):
            raise InvalidImage(f"the frame {reason}", field="image")
        return self._fitted(shape)

    def resized(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Return the mask at the size of a picture or map of a whole frame, of any aspect ratio."""
        return self._fit(shape)

    def apply(
        self, frame: NDArray[np.uint8], region: Region | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return a frame (H, W, 3) without the content of ignored pixels, and its mask (H, W).

        Each ignored pixel gets the value of the nearest pixel that the model looks at. So nothing of what
        was there reaches the features of pixels near it, and the border of the mask is no edge.

        Args:
            frame: the whole frame.
            region: part of the frame to return; None for all of it.

        Raises:
            InvalidImage: if the frame has another aspect ratio than the mask, or the region exceeds it or
                is ignored entirely.
        """
        shape = (frame.shape[0], frame.shape[1])
        looks = self.fitted(shape)
        channels = distinct_channels(frame)
        ignored, nearest = self._nearest(shape)
        filled = np.array(channels)
        # One item per pixel: indexing is twice as fast as with an axis for channels.
        flat = filled.reshape(-1, filled.shape[2]).view(f"V{filled.shape[2]}")[:, 0]
        flat[ignored] = flat[nearest]
        if region is not None:
            filled, looks = region.crop(filled), region.crop(looks)
            if not looks.any():
                raise InvalidImage(
                    "the mask of the model ignores the whole region; choose another one",
                    field="image.region",
                )
        return grey_as_rgb(filled[..., 0]) if filled.shape[2] == 1 else filled, looks

    def _fit(self, shape: tuple[int, int]) -> NDArray[np.bool_]:
        looks = self._looks
        if shape != self.shape:
            size = (shape[1], shape[0])
            shares = cv2.resize(looks.astype(np.float32), size, interpolation=cv2.INTER_AREA)
            looks = np.asarray(shares) >= 0.5
            if not looks.any():  # a mask of a few pixels, scaled down
                looks = np.asarray(shares) == shares.max()
        looks = looks.view()
        looks.flags.writeable = False
        return looks

    def _find_nearest(self, shape: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the flat indices of all ignored pixels, and for each that of the nearest other pixel."""
        looks = self._fitted(shape)
        far = np.logical_not(looks).astype(np.uint8)
        _, labels = cv2.distanceTransformWithLabels(
            far, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
        )
        by_label = np.zeros(int(labels.max()) + 1, np.int32)
        by_label[labels[looks]] = np.flatnonzero(looks)
        ignored = np.flatnonzero(far).astype(np.int32)
        return ignored, by_label[labels.ravel()[ignored]]
