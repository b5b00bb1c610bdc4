# SPDX-License-Identifier: Apache-2.0
"""Metrics of an evaluation, as stored in manifests and job records."""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from blemish_core.platform.bounded import Count, Milliseconds

GOOD = "good"
"""Class of images without defects."""


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True)


class Interval(_FrozenModel):
    """A 95 % confidence interval of a metric."""

    low: float
    high: float


class Spread(_FrozenModel):
    """Quantiles of a duration over images, in milliseconds."""

    p50_ms: Milliseconds
    p95_ms: Milliseconds
    p99_ms: Milliseconds


class Latency(_FrozenModel):
    """Wall time per image during the evaluation."""

    runtime: str
    device: str
    batch_size: Count
    """Images per forward pass, whose time is divided equally among them."""
    decode: Spread
    prepare: Spread
    inference: Spread


class ClassMetrics(_FrozenModel):
    """The metrics of one defect class against all good images."""

    images: Count
    image_auroc: float | None = None
    fpr_at_95_tpr: float | None = None
    detection_rate: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    region_area_ratio: float | None = None
    region_iou: float | None = None
    peak_on_defect_rate: float | None = None
    intervals: Mapping[str, Interval] = {}
    """Confidence intervals by metric name."""


class Metrics(_FrozenModel):
    """Metrics on test images; a metric is None if the images do not allow it."""

    dataset: str
    dataset_snapshot: str
    good_images: Count
    defective_images: Count
    skipped_images: Count = 0
    """Number of unreadable test images, which no metric includes."""
    unmasked_images: Count = 0
    """Number of defective images without a usable mask, which the pixel metrics exclude."""
    copied_images: Count = 0
    """Number of test images that no metric includes, because they equal a training image or each other."""
    image_auroc: float | None = None
    fpr_at_95_tpr: float | None = None
    """Share of good images above the highest threshold that detects 95 % of the defective ones."""
    f1: float | None = None
    """F1 score at the calibrated threshold."""
    best_f1: float | None = None
    """Highest F1 score of any threshold. It uses labels, so it is only for comparison."""
    best_f1_threshold: float | None = None
    """Threshold of the highest F1 score. It uses labels, so it is only for comparison."""
    false_reject_rate: float | None = None
    detection_rate: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    region_area_ratio: float | None = None
    """Median of the area of an image's regions divided by that of its mask, where the verdict is right."""
    region_iou: float | None = None
    """Median of the intersection over union of an image's regions and its mask, on the same images."""
    peak_on_defect_rate: float | None = None
    """Share of these images whose first region has its peak on the mask."""
    threshold: float | None = None
    """Threshold of the F1 score, the false-reject rate and the detection rates; None in old records."""
    regions_threshold: float | None = None
    """Threshold at which the figures of regions were measured; None in old records."""
    regions_pixel_threshold: float | None = None
    """Pixel threshold at which the figures of regions were measured; None in old records."""
    intervals: Mapping[str, Interval] = {}
    """Confidence intervals by metric name."""
    classes: Mapping[str, ClassMetrics] = {}
    latency: Latency | None = None


def image_auroc(good: Sequence[float], defective: Sequence[float]) -> float | None:
    """Return the area under the ROC curve, or None without both good and defective images."""
    if not good or not defective:
        return None
    # scikit-learn takes a second to import, and readers of metrics do not need it.
    from sklearn.metrics import roc_auc_score

    labels = [0] * len(good) + [1] * len(defective)
    return float(roc_auc_score(labels, [*good, *defective]))


def best_f1_threshold(good: Sequence[float], defective: Sequence[float]) -> float | None:
    """Return the threshold with the highest F1 score, or None without both kinds of images."""
    if not good or not defective:
        return None
    from sklearn.metrics import precision_recall_curve

    labels = [0] * len(good) + [1] * len(defective)
    precision, recall, thresholds = precision_recall_curve(labels, [*good, *defective])
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[int(f1[:-1].argmax())])
