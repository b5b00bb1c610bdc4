# SPDX-License-Identifier: Apache-2.0
"""Copies among good images: equal pixels, and several images of one piece.

Re-encoded images, bursts, shifted frames and exposure series show the same details of a surface. Thumbnails
are compared by cross-correlation over small shifts. Each frequency is first weighted by the inverse of its
mean power in the dataset, as in Kuglin and Hines, "The phase correlation image alignment method", 1975.
The weights reduce what all images share, such as the weave of a fabric.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy import fft
from scipy.ndimage import gaussian_filter

from blemish_core.detectors.base import Image, Progress, ReadImage

_SIDE_PX = 64  # square root of the area of a usual thumbnail
_KEPT_SIDE_PX = 2 * _SIDE_PX  # until the usual size of the images is known
_REACH_PX = 5  # largest shift between two thumbnails
_SMOOTHING_PX, _BACKGROUND_PX, _CONTRAST_PX = 0.7, 3.0, 6.0  # standard deviations of the filters
_LEAST_CONTRAST = 0.3  # grey levels, so that noise of rounding is not amplified
_MOST_DETAIL = 3.0  # clips bright specks, which would dominate a correlation
_POWER_FLOOR = 0.05  # share of the mean power, so that frequencies without content are not amplified
_CANDIDATES = 20  # images that each image is compared with
_SAMPLED = 24  # images from which the usual correlation of an image is taken
_BLOCK = 256  # images whose candidates are found at once

_NAMED_GROUPS, _NAMED_COPIES = 5, 2

_LEAST_CORRELATION = 0.5
_CERTAIN_CORRELATION = 0.95
_FEW_IMAGES = 8  # fewer do not show what all of them share


def find_copies(images: Sequence[ReadImage], progress: Progress) -> tuple[tuple[int, ...], ...]:
    """Return groups of images that show one piece, as ascending indices, without images that are alone.

    If most images show one piece, only copies with equal pixels are found, because the others resemble
    images of pieces that look alike.
    """
    first_of: dict[bytes, int] = {}
    pairs: list[tuple[int, int]] = []
    distinct: list[int] = []
    thumbnails: list[_Thumbnail] = []
    for number, read in enumerate(images):
        progress("copies", number, len(images), "images")
        image = read()
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
        first = first_of.setdefault(digest, number)
        if first == number:
            distinct.append(number)
            thumbnails.append(_Thumbnail(image))
        else:
            pairs.append((first, number))
    near = _near_copies(thumbnails, lambda: progress("copies", len(images), len(images), "images"))
    pairs += [(distinct[one], distinct[other]) for one, other in near]
    return _connected(len(images), pairs)


def describe_copies(copies: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """Return how many of the images ``names`` are copies, with some names of each of the first groups."""
    groups = [", ".join(names[number] for number in group[:_NAMED_COPIES]) for group in copies]
    more = len(copies) - _NAMED_GROUPS
    return (
        f"{sum(map(len, copies))} of {len(names)} good images show {len(copies)} pieces, which count once: "
        f"{'; '.join(groups[:_NAMED_GROUPS])}{f' and {more} more' if more > 0 else ''}"
    )


class _Thumbnail:
    """A grey copy of an image with fewer pixels."""

    def __init__(self, image: Image) -> None:
        self.shape = image.shape[:2]
        self.area = image.shape[0] * image.shape[1]
        grey = PillowImage.fromarray(image).convert("L")
        self._grey = _scaled(grey, self.shape, min(1.0, _KEPT_SIDE_PX / sqrt(self.area)))

    def details(self, scale: float) -> NDArray[np.float32]:
        """Return the details at ``scale`` times the image's size, (rows, columns), at equal contrast."""
        grey = np.asarray(_scaled(self._grey, self.shape, scale), np.float32)
        details = gaussian_filter(grey, _SMOOTHING_PX) - gaussian_filter(grey, _BACKGROUND_PX)
        contrast = np.sqrt(gaussian_filter(np.square(details), _CONTRAST_PX))
        floor = 0.05 * contrast.mean() + _LEAST_CONTRAST
        clipped: NDArray[np.float32] = np.clip(details / (contrast + floor), -_MOST_DETAIL, _MOST_DETAIL)
        return clipped


def _scaled(image: PillowImage.Image, shape: tuple[int, ...], scale: float) -> PillowImage.Image:
    """Return an image of ``scale`` times the size of ``shape``, (rows, columns)."""
    rows, columns = (max(1, round(side * scale)) for side in shape)
    return image.resize((columns, rows), PillowImage.Resampling.BOX)


def _near_copies(thumbnails: Sequence[_Thumbnail], check: Callable[[], None]) -> Iterator[tuple[int, int]]:
    """Yield pairs of thumbnails that show one piece; ``check`` is called between them."""
    if len(thumbnails) < 2:
        return
    scale = min(1.0, _SIDE_PX / sqrt(float(np.median([each.area for each in thumbnails]))))
    correlations = _Correlations([each.details(scale) for each in thumbnails])
    few = len(thumbnails) < _FEW_IMAGES
    least = _CERTAIN_CORRELATION if few else _LEAST_CORRELATION
    for number, candidates in enumerate(correlations.candidates()):
        check()
        values = correlations.between(number, candidates)
        required = least
        if not few and values.max() >= least:
            # Pieces with few details of their own correlate too.
            required = min(max(least, 0.4 + 1.2 * correlations.usual(number)), _CERTAIN_CORRELATION)
        yield from ((number, int(other)) for other in candidates[values >= required])


class _Correlations:
    """Correlations between the details of images."""

    def __init__(self, details: Sequence[NDArray[np.float32]]) -> None:
        sizes = np.array([each.shape for each in details])
        # The limit bounds memory if one image is far larger than the others.
        most = np.minimum(sizes.max(axis=0), 2 * np.median(sizes, axis=0).astype(int)) + _REACH_PX
        self._shape = tuple(fft.next_fast_len(int(side), real=True) for side in most)
        spectra = np.zeros((len(details), self._shape[0], self._shape[1] // 2 + 1), np.complex64)
        for spectrum, each in zip(spectra, details, strict=True):
            spectrum[:] = fft.rfft2(each[: most[0] - _REACH_PX, : most[1] - _REACH_PX], self._shape)
        if len(details) >= _FEW_IMAGES:
            spectra -= spectra.mean(axis=0)
        power = np.mean([np.square(np.abs(each)) for each in spectra], axis=0)
        spectra /= np.sqrt(power + _POWER_FLOOR * power.mean() + 1e-12)
        for spectrum in spectra:
            norm = float(np.linalg.norm(fft.irfft2(spectrum, self._shape)))
            spectrum /= max(norm, 1e-6)
        self._spectra = spectra

    def candidates(self) -> Iterator[NDArray[np.int64]]:
        """Yield for each image those that may be copies of it: their magnitudes do not depend on shifts."""
        count = len(self._spectra)
        magnitudes = np.abs(self._spectra).reshape(count, -1)
        magnitudes -= magnitudes.mean(axis=0)
        magnitudes /= np.maximum(np.linalg.norm(magnitudes, axis=1, keepdims=True), 1e-6)
        kept = min(_CANDIDATES, count - 1)
        for start in range(0, count, _BLOCK):
            alike = magnitudes[start : start + _BLOCK] @ magnitudes.T
            alike[np.arange(len(alike)), start + np.arange(len(alike))] = -np.inf
            yield from np.argpartition(-alike, kept - 1, axis=1)[:, :kept]

    def between(self, number: int, others: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the highest correlation of an image with each of ``others`` over small shifts, (len,)."""
        near = np.arange(-_REACH_PX, _REACH_PX + 1)
        rows, columns = near % self._shape[0], near % self._shape[1]
        return _highest(self._over_shifts(number, others)[:, rows][:, :, columns])

    def usual(self, number: int) -> float:
        """Return the median correlation of an image with others over all shifts.

        Images that differ by a large shift alone are of one kind of surface rather than of one piece.
        """
        count = len(self._spectra)
        others = np.unique(np.linspace(0, count - 1, min(count, _SAMPLED)).astype(np.int64))
        return float(np.median(_highest(self._over_shifts(number, others[others != number]))))

    def _over_shifts(self, number: int, others: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the correlations of an image with ``others`` (N,) for all shifts, (N, rows, columns)."""
        products = self._spectra[others] * self._spectra[number].conj()
        values: NDArray[np.float32] = fft.irfft2(products, self._shape)
        return values


def _highest(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the highest of the values (N, rows, columns) of each image, (N,)."""
    highest: NDArray[np.float32] = values.max(axis=(1, 2))
    return highest


def _connected(count: int, pairs: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    """Return the groups of at least two among ``count`` images that ``pairs`` connect."""
    root = list(range(count))

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for one, other in pairs:
        first, last = sorted((find(one), find(other)))
        root[last] = first
    groups: dict[int, list[int]] = {}
    for number in range(count):
        groups.setdefault(find(number), []).append(number)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
