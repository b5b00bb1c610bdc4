# SPDX-License-Identifier: Apache-2.0
"""The mask of a model: the pixels of a frame that it looks at, and those that it ignores.

A mask is made for one size of frame. A frame of another size but the same aspect ratio gets a scaled mask.
A mask with a reference moves with the part in a frame. Frames are never moved.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from blemish_core.imaging.alignment import Aligner, Alignment, Motion
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
_SAME_PLACE_PX = 0.5
"""Motion of all pixels below which a mask stays where it is."""


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
        return mask.apply(frame, region).pixels
    return frame if region is None else region.crop(frame)


@dataclass(frozen=True)
class MaskedFrame:
    """A frame, or a region of it, without the content of ignored pixels."""

    pixels: NDArray[np.uint8]
    """RGB, (H, W, 3)."""
    looks: NDArray[np.bool_]
    """(H, W), True where the model looks."""
    alignment: Alignment | None = None
    """Place of the part in the whole frame; None if the mask does not move."""


class FrameMask:
    """The pixels of a frame that a model looks at.

    Args:
        looks: (H, W), True where the model looks, in px of the reference image.
        field: field that errors name.
        aligner: reference that frames are aligned to; None for a mask that does not move.

    Raises:
        InvalidImage: if the mask ignores every pixel.
    """

    def __init__(
        self, looks: NDArray[np.bool_], field: str = "mask", aligner: Aligner | None = None
    ) -> None:
        if not looks.any():
            raise InvalidImage(
                "the mask ignores every pixel; draw the parts to inspect in white", field=field
            )
        self._looks = looks
        self._aligner = aligner
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

    def aligned_to(self, reference: NDArray[np.uint8]) -> "FrameMask":
        """Return the mask of a part in frames, as drawn on the image ``reference`` (H, W, 3).

        Raises:
            FailedPrecondition: if no frame can be aligned to the image.
        """
        return FrameMask(self._looks, aligner=Aligner.of_image(reference, self._looks))

    def with_reference(self, png: bytes) -> "FrameMask":
        """Return the mask with a reference that ``reference_png`` returned.

        Raises:
            InvalidImage: if it is not an image of such a size.
        """
        return FrameMask(self._looks, aligner=Aligner.from_png(png, self._looks))

    @property
    def is_aligned(self) -> bool:
        """True if frames are aligned to a reference."""
        return self._aligner is not None

    def reference_png(self) -> bytes | None:
        """Return the reference as a small grey PNG, None for a mask that does not move."""
        return self._aligner.to_png() if self._aligner is not None else None

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

    def resized(self, shape: tuple[int, int], motion: Motion | None = None) -> NDArray[np.bool_]:
        """Return the mask at the size of a picture or map of a whole frame, of any aspect ratio.

        Args:
            shape: (H, W) of the picture.
            motion: motion of the part; None if the mask is not moved.
        """
        looks = self._fit(shape)
        return looks if motion is None else _moved(looks, motion)

    def align(self, frame: NDArray[np.uint8]) -> Alignment | None:
        """Return the place of the part in a frame (H, W, 3), None for a mask that does not move.

        Raises:
            InvalidImage: if the frame has another aspect ratio than the mask.
        """
        return self._placed(frame)[1]

    def apply(self, frame: NDArray[np.uint8], region: Region | None = None) -> MaskedFrame:
        """Return a frame (H, W, 3) without the content of ignored pixels, and its mask.

        Each ignored pixel gets the value of the nearest pixel that the model looks at. So nothing of what
        was there reaches the features of pixels near it, and the border of the mask is no edge.

        A mask with a reference is moved with the part. Pixels that the reference does not show are ignored.

        Args:
            frame: the whole frame.
            region: part of the frame to return; None for all of it.

        Raises:
            InvalidImage: if the frame has another aspect ratio than the mask, or the region exceeds it or
                is ignored entirely.
        """
        moved, alignment = self._placed(frame)
        shape = (frame.shape[0], frame.shape[1])
        looks = self.fitted(shape) if moved is None else moved
        ignored, nearest = self._nearest(shape) if moved is None else _nearest_looked(moved)
        channels = distinct_channels(frame)
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
        pixels = grey_as_rgb(filled[..., 0]) if filled.shape[2] == 1 else filled
        return MaskedFrame(pixels, looks, alignment)

    def _placed(self, frame: NDArray[np.uint8]) -> tuple[NDArray[np.bool_] | None, Alignment | None]:
        """Return the mask at its place in a frame, None if it stays where it is, and the alignment."""
        shape = (frame.shape[0], frame.shape[1])
        looks = self.fitted(shape)
        if self._aligner is None:
            return None, None
        alignment = self._aligner.align(frame)
        if alignment.motion is None or alignment.motion.farthest_px(shape) < _SAME_PLACE_PX:
            return None, alignment
        moved = _moved(looks, alignment.motion)
        if not moved.any():
            return None, replace(alignment, motion=None, failure="the part moved too far")
        return moved, alignment

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
        return _nearest_looked(self._fitted(shape))


def _moved(looks: NDArray[np.bool_], motion: Motion) -> NDArray[np.bool_]:
    """Return a mask (H, W) after a motion; pixels to which none moved are ignored."""
    height, width = looks.shape
    moved = cv2.warpAffine(
        looks.astype(np.uint8), motion.matrix((height, width)), (width, height), flags=cv2.INTER_NEAREST
    )
    return np.asarray(moved) > 0


def _nearest_looked(looks: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the flat indices of all ignored pixels, and for each that of the nearest other pixel."""
    far = np.logical_not(looks).astype(np.uint8)
    # The nearest pixel is on the border of the area that is looked at, so few pixels need a label.
    border = np.asarray(cv2.dilate(far, np.ones((3, 3), np.uint8))) > far
    _, labels = cv2.distanceTransformWithLabels(
        np.logical_not(border).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    at_border = np.flatnonzero(border).astype(np.int32)
    labels = labels.ravel()
    own = labels[at_border]
    by_label = np.zeros(int(own.max(initial=0)) + 1, np.int32)
    by_label[own] = at_border
    ignored = np.flatnonzero(far).astype(np.int32)
    return ignored, by_label[labels[ignored]]
