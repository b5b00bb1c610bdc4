# SPDX-License-Identifier: Apache-2.0
"""Pixel AUROC and AUPRO of any number of anomaly maps in bounded memory, with bootstrap intervals.

AUPRO: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021, section 5.2. Each pixel of a region
has the weight 1 / (size of the region). The true positive rate of the weighted ROC curve is then the mean
overlap of the regions.

Each map is added to histograms with bins of 1/4096 of the value, and the metrics are those of the bins. A
coarser histogram per image is kept, so that a bootstrap draw of images is a sum of histograms.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from blemish_core.evaluation.metrics import GOOD
from blemish_core.evaluation.pixel_grid import compared
from blemish_core.evaluation.resampling import SEED, Estimate, Estimates, draws, enough, percentile_interval

PRO_FALSE_POSITIVE_LIMIT = 0.3
"""False positive rate up to which the per-region overlap is integrated."""

_FINE = 11
"""Dropped bits of a float32: 12 of its 23 mantissa bits remain, for at most 2 million bins."""
_COARSE = 3
"""Further dropped bits in the histograms per image."""
_GROUPS = 1024
"""Bins of a bootstrap draw, each with about the same weight."""

_Sparse = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Indices of the bins that are not empty, ascending, and their weights."""


class _PixelKinds(NamedTuple):
    """Weights of three kinds of pixels, each (rows, bins)."""

    outside: NDArray[np.float64]
    """Number of pixels without a defect."""
    defect: NDArray[np.float64]
    """Number of pixels of defects."""
    overlap: NDArray[np.float64]
    """Sum over pixels of defects of 1 / (size of the region)."""


@dataclass
class _Histogram:
    """Weights by bin, from the lowest used bin to the highest."""

    first: int = 0
    weights: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def add(
        self, bins: NDArray[np.int64], weights: NDArray[np.float64] | NDArray[np.int64] | None
    ) -> _Sparse:
        """Add pixels and return their weights in coarse bins."""
        if not len(bins):
            return np.empty(0, np.int32), np.empty(0, np.float32)
        low = int(bins.min())
        new = np.bincount(bins - low, weights)
        self._make_room(low, low + len(new))
        self.weights[low - self.first : low - self.first + len(new)] += new
        filled = np.flatnonzero(new)
        coarse, where = np.unique((filled + low) >> _COARSE, return_inverse=True)
        return coarse.astype(np.int32), np.bincount(where, new[filled]).astype(np.float32)

    def within(self, low: int, high: int) -> NDArray[np.float64]:
        """Return the weights of the bins ``low`` to ``high`` (exclusive), which include all used bins."""
        return np.pad(self.weights, (self.first - low, high - self.first - len(self.weights)))

    def _make_room(self, low: int, high: int) -> None:
        if len(self.weights):
            low, high = min(low, self.first), max(high, self.first + len(self.weights))
            self.weights = self.within(low, high)
        else:
            self.weights = np.zeros(high - low)
        self.first = low


@dataclass
class _ClassPixels:
    """The pixels of one class."""

    outside: _Histogram = field(default_factory=_Histogram)
    defect: _Histogram = field(default_factory=_Histogram)
    overlap: _Histogram = field(default_factory=_Histogram)
    images: list[tuple[_Sparse, _Sparse, _Sparse]] = field(default_factory=list)

    @property
    def histograms(self) -> tuple[_Histogram, _Histogram, _Histogram]:
        return self.outside, self.defect, self.overlap


class PixelHistograms:
    """An accumulator of anomaly maps that computes the pixel metrics."""

    def __init__(self) -> None:
        self._classes: defaultdict[str, _ClassPixels] = defaultdict(_ClassPixels)

    @property
    def classes(self) -> list[str]:
        """Return the defect classes with images."""
        return sorted(set(self._classes) - {GOOD})

    def add(
        self,
        class_name: str,
        anomaly_map: NDArray[np.float32],
        mask: NDArray[np.bool_],
        looks: NDArray[np.bool_] | None = None,
    ) -> None:
        """Add one image's anomaly map, of any shape, and its mask; another image may have another shape.

        Args:
            class_name: class of the image.
            anomaly_map: scores (rows, columns) of the whole frame.
            mask: (H, W) of the frame, True on defects.
            looks: (H, W), True for the pixels that count; others are not part of a region either.
        """
        found = compared(anomaly_map, mask, looks)
        bins, counted = _bins(found.outside), found.outside_pixels > 0
        defect = _bins(found.defect)
        pixels = self._classes[class_name]
        pixels.images.append(
            (
                pixels.outside.add(bins[counted], found.outside_pixels[counted]),
                pixels.defect.add(defect, None),
                pixels.overlap.add(defect, found.overlap),
            )
        )

    def metrics(self, classes: Sequence[str] | None = None) -> Estimates:
        """Estimate the metrics of these defect classes, by default all, together with the good images.

        Returns an empty result without both defective and other pixels.
        """
        names = self.classes if classes is None else classes
        chosen = [self._classes[name] for name in (GOOD, *names) if name in self._classes]
        filled = [h for pixels in chosen for h in pixels.histograms if len(h.weights)]
        if not filled:
            return {}
        low = min(histogram.first for histogram in filled)
        high = max(histogram.first + len(histogram.weights) for histogram in filled)
        totals = _PixelKinds(*(np.zeros((1, high - low)) for _ in range(3)))
        for pixels in chosen:
            for total, histogram in zip(totals, pixels.histograms, strict=True):
                if len(histogram.weights):
                    total += histogram.within(low, high)
        if not totals.outside.any() or not totals.defect.any():
            return {}
        pixel_auroc, aupro = _areas(totals)
        drawn = self._drawn(names)
        values = {"pixel_auroc": float(pixel_auroc[0]), "aupro": float(aupro[0])}
        return {
            name: Estimate(value, percentile_interval(drawn[i]) if drawn else None)
            for i, (name, value) in enumerate(values.items())
        }

    def _drawn(self, classes: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Return pixel AUROC and AUPRO of all bootstrap draws, or None if there are too few images."""
        good = self._classes[GOOD].images if GOOD in self._classes else []
        defective = [image for name in classes for image in self._classes[name].images]
        if not enough(len(defective)) or (good and not enough(len(good))):
            return None
        random = np.random.default_rng(SEED)
        groups = _grouped([*good, *defective])
        # Each draw takes whole images: the same counts for each kind of pixels.
        counts = draws(len(defective), random)
        sums = [counts @ kind[len(good) :] for kind in groups]
        if good:
            sums[0] += draws(len(good), random) @ groups[0][: len(good)]
        return _areas(_PixelKinds(*(each.astype(np.float64) for each in sums)))


def _bins(anomaly_map: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the bins of values. The bits of a float, read as an integer, have the order of the values."""
    bits = (np.ascontiguousarray(anomaly_map, np.float32) + np.float32(0)).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFF_FFFF), bits) >> _FINE  # adding 0 converts -0 to 0


def _areas(weights: _PixelKinds) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return pixel AUROC and AUPRO (R,) for weights (R, bins) with ascending bins."""
    false, true, overlap = (_cumulative(kind) for kind in weights)
    pixel_auroc = np.asarray(np.trapezoid(true, false, axis=1))

    # Integrate each segment of the overlap curve up to the limit.
    limit = PRO_FALSE_POSITIVE_LIMIT
    x0, x1 = false[:, :-1], false[:, 1:]
    y0, y1 = overlap[:, :-1], overlap[:, 1:]
    width = x1 - x0
    inside = np.clip(limit - x0, 0, width)
    slope = np.divide(y1 - y0, width, out=np.zeros_like(width), where=width > 0)
    aupro = (inside * (y0 + slope * inside / 2)).sum(axis=1) / limit
    return pixel_auroc, aupro


def _cumulative(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share (R, bins + 1) of each row (R, bins) above each edge, from the highest edge down."""
    summed = np.cumsum(weights[:, ::-1], axis=1, dtype=np.float64)
    return np.pad(summed / np.maximum(summed[:, -1:], 1e-300), ((0, 0), (1, 0)))


def _grouped(images: Sequence[tuple[_Sparse, _Sparse, _Sparse]]) -> list[NDArray[np.float32]]:
    """Return histograms (images, bins) of each kind over common bins of about equal weight."""
    bins = np.unique(np.concatenate([sparse[0] for kinds in images for sparse in kinds]))
    mass = np.zeros(len(bins))
    for kind in range(3):
        of_kind = np.zeros(len(bins))
        for kinds in images:
            of_kind[np.searchsorted(bins, kinds[kind][0])] += kinds[kind][1]
        mass += of_kind / max(of_kind.sum(), 1e-300)
    # Group bins by the quantile of their middle.
    middles = (np.cumsum(mass) - mass / 2) / mass.sum()
    _, group = np.unique((middles * _GROUPS).astype(np.int64), return_inverse=True)
    count = int(group.max()) + 1
    return [
        np.stack(
            [
                np.bincount(group[np.searchsorted(bins, kinds[kind][0])], kinds[kind][1], minlength=count)
                for kinds in images
            ]
        ).astype(np.float32)
        for kind in range(3)
    ]
