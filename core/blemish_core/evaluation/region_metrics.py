# SPDX-License-Identifier: Apache-2.0
"""Agreement of regions with ground-truth masks, over defective images with a verdict of anomalous."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blemish_core.evaluation.resampling import (
    DRAWS,
    SEED,
    Estimate,
    Estimates,
    enough,
    percentile_interval,
    rate,
)
from blemish_core.localization.defect_region import DefectRegion, region_picture


class RegionAgreement:
    """An accumulator of regions and masks that computes the region metrics."""

    def __init__(self) -> None:
        self._classes: defaultdict[str, list[tuple[float, float, bool]]] = defaultdict(list)
        """Area ratio, intersection over union, and whether the peak is on the defect, by class."""

    def add(
        self,
        class_name: str,
        regions: Sequence[DefectRegion],
        mask: NDArray[np.bool_],
    ) -> None:
        """Add the regions of one image.

        Args:
            class_name: class of the image.
            regions: regions in px of the frame, the highest peak first; an image without any is left out.
            mask: mask of the defect, (H, W) of the frame. An empty one is left out.
        """
        if not regions or not mask.any():
            return
        found = region_picture(regions, (mask.shape[0], mask.shape[1])) > 0
        both, either = int((found & mask).sum()), int((found | mask).sum())
        column, row = regions[0].peak
        self._classes[class_name].append(
            (float(found.sum() / mask.sum()), both / either, bool(mask[row, column]))
        )

    def metrics(self, classes: Sequence[str] | None = None) -> Estimates:
        """Estimate the metrics of these classes, by default all; empty without images."""
        names = self._classes if classes is None else classes
        rows = [row for name in names for row in self._classes.get(name, ())]
        if not rows:
            return {}
        ratios, overlaps, hits = (np.array(column, np.float64) for column in zip(*rows, strict=True))
        return {
            "region_area_ratio": _median(ratios),
            "region_iou": _median(overlaps),
            "peak_on_defect_rate": rate(int(hits.sum()), len(hits)),
        }


def _median(values: NDArray[np.float64]) -> Estimate:
    """Estimate the median with a bootstrap interval."""
    middle = float(np.median(values))
    if not enough(len(values)):
        return Estimate(middle)
    picks = np.random.default_rng(SEED).integers(len(values), size=(DRAWS, len(values)))
    return Estimate(middle, percentile_interval(np.median(values[picks], axis=1)))
