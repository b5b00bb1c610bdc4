# SPDX-License-Identifier: Apache-2.0
"""The figures that tell how well a model tells good from defective, as manifests and jobs keep them."""

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

GOOD = "good"
"""The class of images without defects."""


class _FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True)


class Interval(_FrozenModel):
    """Where a figure lies with a confidence of 95 %, as far as these images tell."""

    low: float
    high: float


class Spread(_FrozenModel):
    """Quantiles of a time over images, ms."""

    p50_ms: float
    p95_ms: float
    p99_ms: float


class Latency(_FrozenModel):
    """Wall time per image while the figures were taken, of one image after the other or in batches."""

    runtime: str
    device: str
    batch_size: int
    """Images in one forward pass; a pass counts for each of its images as an equal part."""
    decode: Spread
    prepare: Spread
    inference: Spread


class ClassMetrics(_FrozenModel):
    """One defect class against all good images."""

    images: int
    image_auroc: float | None = None
    fpr_at_95_tpr: float | None = None
    detection_rate: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    intervals: Mapping[str, Interval] = {}
    """By the name of the figure's field."""


class Metrics(_FrozenModel):
    """Figures on test images; None where the images do not allow one."""

    dataset: str
    dataset_snapshot: str
    good_images: int
    defective_images: int
    skipped_images: int = 0
    """Test images that could not be read and count nowhere."""
    unmasked_images: int = 0
    """Defective images without a usable mask, which the pixel figures leave out."""
    image_auroc: float | None = None
    fpr_at_95_tpr: float | None = None
    """Share of good images above the highest threshold that finds 95 % of the defective ones."""
    f1: float | None = None
    """At the calibrated threshold."""
    best_f1: float | None = None
    """Uses labels: for comparison, never for verdicts."""
    best_f1_threshold: float | None = None
    """Uses labels: for comparison, never for verdicts."""
    false_reject_rate: float | None = None
    detection_rate: float | None = None
    pixel_auroc: float | None = None
    aupro: float | None = None
    intervals: Mapping[str, Interval] = {}
    """By the name of the figure's field."""
    classes: Mapping[str, ClassMetrics] = {}
    latency: Latency | None = None


def image_auroc(good: Sequence[float], defective: Sequence[float]) -> float | None:
    """Area under the ROC curve, or None without images of both kinds."""
    if not good or not defective:
        return None
    # scikit-learn, here and below, only now: it takes a second, and who reads figures needs none of it.
    from sklearn.metrics import roc_auc_score

    labels = [0] * len(good) + [1] * len(defective)
    return float(roc_auc_score(labels, [*good, *defective]))


def best_f1_threshold(good: Sequence[float], defective: Sequence[float]) -> float | None:
    """The score from which on "defective" gives the best F1; it sees the labels."""
    if not good or not defective:
        return None
    from sklearn.metrics import precision_recall_curve

    labels = [0] * len(good) + [1] * len(defective)
    precision, recall, thresholds = precision_recall_curve(labels, [*good, *defective])
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[int(f1[:-1].argmax())])
