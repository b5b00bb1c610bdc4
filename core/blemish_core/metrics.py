# SPDX-License-Identifier: Apache-2.0
"""How well scores and anomaly maps tell good from defective.

AUPRO: Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 2021, section 5.2.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.ndimage import label
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

PRO_FALSE_POSITIVE_LIMIT = 0.3
"""Up to this false positive rate the per-region-overlap curve is integrated."""


class ClassMetrics(BaseModel):
    """One defect class against all good images."""

    model_config = ConfigDict(frozen=True)

    images: int
    image_auroc: float | None


class Metrics(BaseModel):
    """Figures on test images; None where the images do not allow one."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    dataset_snapshot: str
    good_images: int
    defective_images: int
    image_auroc: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    false_reject_rate: float | None = None
    detection_rate: float | None = None
    best_f1_threshold: float | None = None
    """Uses labels: for comparison, never for verdicts."""
    classes: Mapping[str, ClassMetrics] = {}


def image_auroc(good: Sequence[float], defective: Sequence[float]) -> float | None:
    """Area under the ROC curve, or None without images of both kinds."""
    if not good or not defective:
        return None
    labels = [0] * len(good) + [1] * len(defective)
    return float(roc_auc_score(labels, [*good, *defective]))


def best_f1_threshold(good: Sequence[float], defective: Sequence[float]) -> float | None:
    """The score from which on "defective" gives the best F1; it sees the labels."""
    if not good or not defective:
        return None
    labels = [0] * len(good) + [1] * len(defective)
    precision, recall, thresholds = precision_recall_curve(labels, [*good, *defective])
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[int(f1[:-1].argmax())])


def pixel_figures(
    maps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]
) -> tuple[float | None, float | None]:
    """Return pixel AUROC and AUPRO of anomaly maps (H, W) and their masks (H, W).

    Both are None unless there are defective and other pixels.
    """
    if not maps:
        return None, None
    pixels = np.concatenate([pixel_map.ravel() for pixel_map in maps])
    defective = np.concatenate([mask.ravel() for mask in masks])
    if not defective.any() or defective.all():
        return None, None
    pixel_auroc = float(roc_auc_score(defective, pixels))

    # A pixel of a region counts 1 / (the region's size), so the true positive rate of the weighted ROC
    # curve is the mean overlap of the regions.
    weights = np.concatenate([_region_weights(mask).ravel() for mask in masks])
    false_positive_rate, overlap, _ = roc_curve(
        defective, pixels, sample_weight=weights, drop_intermediate=False
    )
    limit = PRO_FALSE_POSITIVE_LIMIT
    below = false_positive_rate <= limit
    x = np.append(false_positive_rate[below], limit)
    y = np.append(overlap[below], np.interp(limit, false_positive_rate, overlap))
    return pixel_auroc, float(np.trapezoid(y, x) / limit)


def _region_weights(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1 outside, 1 / size inside each 8-connected region of ``mask`` (H, W)."""
    regions, _ = label(mask, structure=np.ones((3, 3)))
    sizes = np.bincount(regions.ravel()).astype(np.float64)
    sizes[0] = 1
    return np.asarray(1 / sizes[regions])
