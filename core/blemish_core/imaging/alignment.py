# SPDX-License-Identifier: Apache-2.0
"""The motion of a part between a reference image and a frame: a shift and a small rotation.

A coarse search compares thumbnails at all angles and shifts by masked normalised cross-correlation
(Padfield, IEEE Transactions on Image Processing 21(5), 2012). The enhanced correlation coefficient
(Evangelidis and Psarakis, IEEE TPAMI 30(10), 2008) refines its best place. Only the area that a model looks
at is compared, with a margin around it, so that a fixture that does not move with the part is not followed.
"""

import itertools
import math
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Self

import cv2
import numpy as np
from numpy import fft
from numpy.typing import NDArray
from PIL import Image as PillowImage

from blemish_core.imaging.decode import ImageLimits, decode
from blemish_core.imaging.samples import distinct_channels
from blemish_core.platform.errors import FailedPrecondition

MAX_ANGLE = 10.0
"""Largest rotation that is found, in degrees."""
MAX_SHIFT_SHARE = 0.25
"""Largest shift that is found, as a share of the frame's width or height."""
MIN_QUALITY = 0.5
"""Lowest correlation of an aligned frame with the reference; unrelated images reach less."""

_SIDE = 256
"""Side of a square with as many pixels as the reference."""
_COARSE_SIDE = 64
"""Side of a square with as many pixels as the thumbnails of the coarse search."""
_STEP_PX = 1.2
"""Way of the ends of a coarse thumbnail from one angle of the search to the next, in px."""
_MARGIN_SHARE = 1 / 16
"""Width of the margin around the area that is looked at, as a share of the image's size."""
_MIN_OVERLAP = 0.5
"""Least share of the compared area that a frame must show."""
_MIN_CONTRAST = 1.0
"""Least standard deviation of the reference without its slow gradients, in grey levels."""
_MAX_RIVAL = 0.9
"""Highest correlation at another place, relative to that of the best one; a repeating pattern has more."""
_GRADIENT_SHARE = 1 / 8
"""Size of details that are regarded as lighting, as a share of the image's size."""
_ITERATIONS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 50, 1e-5)
_MAX_REFINEMENT_PX = 3.0
"""Longest way from the coarse place to the refined one, in px of the coarse thumbnails."""
_STORED = ImageLimits(min_side=1, max_side=1 << 16, max_pixels=2 * _SIDE**2)
"""Limits on references in bundles."""

_Grey = NDArray[np.float32]


@dataclass(frozen=True)
class Motion:
    """The motion of a part from the reference to a frame: a rotation about the center, and a shift."""

    dx_px: float
    """Shift of the center to the right, in px of the frame."""
    dy_px: float
    """Shift of the center downwards, in px of the frame."""
    angle_deg: float
    """Rotation in degrees, clockwise."""

    def matrix(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        """Return the affine matrix (2, 3) from positions (x, y) in the reference to those in the frame.

        Args:
            shape: (H, W) of the frame; positions in the reference are in px of a reference of this size.
        """
        turn = math.radians(self.angle_deg)
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        center = _center(shape)
        shift = np.array([self.dx_px, self.dy_px]) + center - rotation @ center
        return np.column_stack([rotation, shift])

    def scaled(self, factor: float) -> "Motion":
        """Return the motion in a frame that is scaled by ``factor``."""
        return replace(self, dx_px=self.dx_px * factor, dy_px=self.dy_px * factor)

    def farthest_px(self, shape: tuple[int, int]) -> float:
        """Return the longest way that a corner of a frame (H, W) moves, in px."""
        height, width = shape
        corners = np.array([(x, y, 1.0) for x in (0, width - 1) for y in (0, height - 1)])
        moved = corners @ self.matrix(shape).T
        return float(np.linalg.norm(moved - corners[:, :2], axis=1).max())


@dataclass(frozen=True)
class Alignment:
    """The result of a comparison of a frame with the reference."""

    motion: Motion | None
    """Motion of the part; None if the frame could not be aligned."""
    quality: float
    """Correlation of the aligned frame with the reference, -1 to 1."""
    failure: str = ""
    """Reason why the frame could not be aligned."""

    @property
    def note(self) -> str:
        """Note for people, empty if the frame was aligned.

        It has no numbers, so that a stream repeats it only if the reason changes.
        """
        if not self.failure:
            return ""
        return f"the frame could not be aligned, so the mask was not moved: {self.failure}"


class Aligner:
    """A reference image, and the search for its place in frames.

    Args:
        reference: grey thumbnail of the reference image, (h, w).
        looks: (H, W), True where the model looks, in px of the reference image.
    """

    def __init__(self, reference: NDArray[np.uint8], looks: NDArray[np.bool_]) -> None:
        self._reference = reference
        self._shape = (reference.shape[0], reference.shape[1])
        detail = _without_gradients(reference)
        area = _compared_area(looks, self._shape)
        self._contrast = float(detail[area].std())
        self._levels = [_scaled(detail, side) for side in (_SIDE // 2, _SIDE)]
        self._areas = [_scaled(area.astype(np.float32), side) >= 0.5 for side in (_SIDE // 2, _SIDE)]
        coarse_area = _scaled(area.astype(np.float32), _COARSE_SIDE) >= 0.5
        self._coarse = _scaled(detail, _COARSE_SIDE)
        self._search = _CoarseSearch(self._coarse, coarse_area)

    @classmethod
    def of_image(cls, image: NDArray[np.uint8], looks: NDArray[np.bool_]) -> Self:
        """Return an aligner to an image (H, W, 3).

        Raises:
            FailedPrecondition: if the image is flat where the model looks, or repeats itself there.
        """
        height, width = image.shape[:2]
        aligner = cls(_thumbnail(image, _scaled_shape((height, width), _SIDE)), looks)
        aligner._check()
        return aligner

    @classmethod
    def from_png(cls, data: bytes, looks: NDArray[np.bool_]) -> Self:
        """Return the aligner of a thumbnail that ``to_png`` wrote.

        Raises:
            InvalidImage: if it is not an image of such a size.
        """
        return cls(np.ascontiguousarray(decode(data, _STORED)[..., 0]), looks)

    def to_png(self) -> bytes:
        """Return the thumbnail as a PNG."""
        out = BytesIO()
        PillowImage.fromarray(self._reference).save(out, "PNG", optimize=True)
        return out.getvalue()

    def align(self, frame: NDArray[np.uint8]) -> Alignment:
        """Find the reference in a frame (H, W, 3) of the same aspect ratio."""
        detail = _without_gradients(_thumbnail(frame, self._shape))
        found = self._search.best(_scaled(detail, _COARSE_SIDE))
        if found.correlation < MIN_QUALITY / 2:
            return Alignment(None, found.correlation, "it differs too much from the reference")
        if found.rival > _MAX_RIVAL:
            return Alignment(None, found.correlation, "it matches the reference at several places")
        motion, quality = found.motion, found.correlation
        for level, area in zip(self._levels, self._areas, strict=True):
            refined = _refined(motion, level, area, _resized(detail, level.shape[:2]))
            if refined is None:
                return Alignment(None, quality, "it differs too much from the reference")
            motion, quality = refined
        return self._checked(found.motion, motion, quality, (frame.shape[0], frame.shape[1]))

    def _check(self) -> None:
        if self._contrast < _MIN_CONTRAST:
            raise FailedPrecondition(
                "the reference is too uniform where the mask looks, so no frame can be aligned to it; "
                "choose another reference, look at more of the part, or train without alignment"
            )
        if self._search.best(self._coarse).rival > _MAX_RIVAL:
            raise FailedPrecondition(
                "the reference repeats itself where the mask looks, so its position is uncertain; "
                "let the mask look at an edge or a mark of the part, or train without alignment"
            )

    def _checked(
        self, coarse: "_Motion", motion: "_Motion", quality: float, shape: tuple[int, int]
    ) -> Alignment:
        """Return the motion in px of a frame of ``shape``, or the reason why it is not trusted."""
        way = np.linalg.norm(np.subtract(motion.shift, coarse.shift)) * max(self._search.shape)
        if quality < MIN_QUALITY or way > _MAX_REFINEMENT_PX:
            return Alignment(None, quality, "it differs too much from the reference")
        longer = max(shape)
        dx, dy = (float(share) * longer for share in motion.shift)
        if (
            abs(motion.angle) > MAX_ANGLE
            or abs(dx) > MAX_SHIFT_SHARE * shape[1]
            or abs(dy) > MAX_SHIFT_SHARE * shape[0]
        ):
            return Alignment(None, quality, "the part moved too far")
        return Alignment(Motion(dx, dy, motion.angle), quality)


@dataclass(frozen=True)
class _Motion:
    """A motion, independent of the size of the frame."""

    angle: float
    shift: tuple[float, float]
    """Shift of the center to the right and downwards, as shares of the longer side."""

    def matrix(self, shape: tuple[int, int]) -> NDArray[np.float64]:
        longer = max(shape)
        return Motion(self.shift[0] * longer, self.shift[1] * longer, self.angle).matrix(shape)


@dataclass(frozen=True)
class _Place:
    motion: _Motion
    correlation: float
    rival: float
    """Highest correlation at another place, relative to ``correlation``."""


class _CoarseSearch:
    """The search over all angles and shifts, with everything that depends on the reference alone."""

    def __init__(self, reference: _Grey, area: NDArray[np.bool_]) -> None:
        height, width = reference.shape
        self.shape = (height, width)
        steps = math.ceil(math.radians(MAX_ANGLE) * math.hypot(height, width) / 2 / _STEP_PX)
        self._angles = np.linspace(-MAX_ANGLE, MAX_ANGLE, 2 * steps + 1)
        self._reach = (round(height * MAX_SHIFT_SHARE), round(width * MAX_SHIFT_SHARE))
        self._padded = tuple(
            _fast_length(side + reach) for side, reach in zip((height, width), self._reach, strict=True)
        )
        looked = area.astype(np.float32)
        areas, values = [], []
        for angle in self._angles:
            turn = _Motion(float(angle), (0.0, 0.0)).matrix((height, width))
            turned = cv2.warpAffine(looked, turn, (width, height), flags=cv2.INTER_NEAREST)
            areas.append(turned)
            values.append(cv2.warpAffine(reference, turn, (width, height), flags=cv2.INTER_LINEAR) * turned)
        self._areas = self._transformed(np.stack(areas)).conj()
        self._values = self._transformed(np.stack(values)).conj()
        ones = self._transformed(np.ones((height, width), np.float32))
        squares = self._transformed(np.stack(values) ** 2).conj()
        self._overlap = self._correlated(self._areas, ones).round()
        enough = self._overlap >= max(1.0, _MIN_OVERLAP * float(looked.sum()))
        count = np.maximum(self._overlap, 1)
        self._sums = self._correlated(self._values, ones)
        self._spread = self._correlated(squares, ones) - self._sums**2 / count
        self._usable = enough & (self._spread > _MIN_OVERLAP * self._spread.max(axis=(1, 2), keepdims=True))

    def best(self, frame: _Grey) -> _Place:
        """Return the place in a frame (h, w) that correlates best with the reference."""
        values, squares = self._transformed(frame), self._transformed(frame * frame)
        count = np.maximum(self._overlap, 1)
        sums = self._correlated(self._areas, values)
        spread = self._correlated(self._areas, squares) - sums**2 / count
        product = self._correlated(self._values, values) - self._sums * sums / count
        usable = self._usable & (spread > _MIN_CONTRAST**2 * count)
        correlation = np.full(product.shape, -1.0, np.float32)
        np.divide(product, np.sqrt(np.maximum(self._spread * spread, 1e-6)), out=correlation, where=usable)
        number, row, column = np.unravel_index(int(correlation.argmax()), correlation.shape)
        peak = float(correlation[number, row, column])
        longer = max(self.shape)
        shift = ((column - self._reach[1]) / longer, (row - self._reach[0]) / longer)
        over_angles = correlation.max(axis=0)
        return _Place(
            _Motion(float(self._angles[number]), (float(shift[0]), float(shift[1]))),
            peak,
            _rival(over_angles) / peak if peak > 0 else 1.0,
        )

    def _transformed(self, images: _Grey) -> NDArray[np.complex64]:
        return np.asarray(fft.rfft2(images, s=self._padded))

    def _correlated(self, reference: NDArray[np.complex64], frame: NDArray[np.complex64]) -> _Grey:
        """Return the correlation at all shifts within reach, (angles, rows, columns)."""
        everywhere = fft.irfft2(reference * frame, s=self._padded)
        rows, columns = (np.arange(-reach, reach + 1) for reach in self._reach)
        return np.asarray(everywhere[:, rows[:, None], columns], np.float32)


def _fast_length(least: int) -> int:
    """Return the smallest length from ``least`` whose prime factors are 2, 3 and 5: fast to transform."""
    return next(length for length in itertools.count(least) if 30**20 % length == 0)


def _rival(correlation: _Grey) -> float:
    """Return the second highest peak of a map, or -1 if there is one peak."""
    highest_near = cv2.dilate(correlation, np.ones((5, 5), np.uint8))
    peaks = np.sort(correlation[(correlation == highest_near) & (correlation > -1)])
    return float(peaks[-2]) if len(peaks) > 1 else -1.0


def _refined(
    start: _Motion, reference: _Grey, area: NDArray[np.bool_], frame: _Grey
) -> tuple[_Motion, float] | None:
    """Return a refined motion and its correlation, or None if the search did not converge."""
    shape = (reference.shape[0], reference.shape[1])
    # OpenCV masks the image that is warped, so it warps the reference to the frame.
    warp = cv2.invertAffineTransform(start.matrix(shape)).astype(np.float32)
    try:
        correlation, found = cv2.findTransformECC(
            frame, reference, warp, cv2.MOTION_EUCLIDEAN, _ITERATIONS, area.astype(np.uint8), 3
        )
    except cv2.error:
        return None
    matrix = cv2.invertAffineTransform(np.asarray(found, np.float64))
    center = _center(shape)
    shift = (matrix[:, :2] @ center + matrix[:, 2] - center) / max(shape)
    angle = math.degrees(math.atan2(float(matrix[1, 0]), float(matrix[0, 0])))
    return _Motion(angle, (float(shift[0]), float(shift[1]))), float(correlation)


def _compared_area(looks: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the area that is looked at with a margin, at the size of the reference."""
    shares = cv2.resize(looks.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    margin = round(_MARGIN_SHARE * math.sqrt(math.prod(shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    return np.asarray(cv2.dilate((np.asarray(shares) > 0).astype(np.uint8), kernel) > 0)


def _thumbnail(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) in grey, scaled to ``shape``."""
    channels = np.ascontiguousarray(distinct_channels(image))
    # Halving is much faster than other scales, and exact for even sides.
    while min(channels.shape[0] / shape[0], channels.shape[1] / shape[1]) >= 4:
        height, width = channels.shape[:2]
        if height % 2 or width % 2:
            break
        half = cv2.resize(channels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        channels = np.asarray(half, np.uint8).reshape(height // 2, width // 2, -1)
    small = cv2.resize(channels, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY) if small.ndim == 3 else small, np.uint8)


def _without_gradients(grey: NDArray[np.uint8]) -> _Grey:
    """Return the details of an image, without slow changes of brightness."""
    values = grey.astype(np.float32)
    slow = cv2.GaussianBlur(values, (0, 0), _GRADIENT_SHARE * math.sqrt(grey.size))
    return np.asarray(values - slow, np.float32)


def _scaled(values: _Grey, side: int) -> _Grey:
    return _resized(values, _scaled_shape((values.shape[0], values.shape[1]), side))


def _scaled_shape(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the shape of an image that is shrunk to at most as many pixels as a square of ``side``."""
    scale = min(1.0, side / math.sqrt(math.prod(shape)))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _resized(values: _Grey, shape: tuple[int, int]) -> _Grey:
    return np.asarray(cv2.resize(values, (shape[1], shape[0]), interpolation=cv2.INTER_AREA), np.float32)


def _center(shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.array([(shape[1] - 1) / 2, (shape[0] - 1) / 2])
