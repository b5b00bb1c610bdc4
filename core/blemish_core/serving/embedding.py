# SPDX-License-Identifier: Apache-2.0
"""Embeddings of images, see ``detectors.common.embedding``, which also learns their parameters."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SCORE_WEIGHT = 0.5
"""Weight of the score relative to pooled features of length 1."""
NEAR = 0.02
"""Relative distance to the center below which directions are rounding errors and fade out."""
_EPSILON = 1e-12


def pooled(features: Floats, anomaly: Floats, temperature: float) -> Floats:
    """Pool features (P, D) to (D,), weighted by a softmax over the anomaly (P,) of each patch."""
    scaled = anomaly / np.float32(temperature)
    weights = np.exp(scaled - scaled.max())
    gathered: Floats = (weights / weights.sum()) @ features
    return gathered


def embedding(
    features: Floats,
    center: Floats,
    whitening: Floats,
    score: float,
    scale: Floats,
    stages: Sequence[int] = (),
) -> Floats:
    """Return a vector (D + 1,) of length 1 from pooled features (D,) and the score of an image.

    Args:
        features: pooled features.
        center: (D,), subtracted, because the common part of all images separates none.
        whitening: (D, D).
        score: image score.
        scale: (2,), center and width of the map from scores to sides.
        stages: as in ``directions``.
    """
    away = features - center
    near = max(NEAR * float(np.linalg.norm(features)), _EPSILON)
    fading = np.float32(min(1.0, float(np.linalg.norm(away)) / near))
    whitened = np.asarray(away @ whitening, np.float32)
    return joined(directions(whitened, stages) * fading, score, scale)


def directions(deviations: Floats, stages: Sequence[int] = ()) -> Floats:
    """Return the directions (..., D) of whitened deviations (..., D), of length 1 or less.

    Args:
        deviations: deviations from the center of good images.
        stages: number of features of each stage, D together; empty for one stage. All have equal lengths.
    """
    parts = np.split(deviations, list(accumulate(stages))[:-1], axis=-1) if stages else [deviations]
    together = np.concatenate([_normalized(part) for part in parts], axis=-1)
    shared: Floats = together * np.float32(len(parts) ** -0.5)
    return shared


def joined(direction: Floats, score: float, scale: Floats) -> Floats:
    """Return a vector (D + 1,) of length 1 from a direction (D,) of length 1 or less and a score."""
    undecided, decided = scale
    side = np.tanh((np.float32(score) - undecided) / decided)  # from -1 (good) to 1 (defective)
    return _normalized(np.append(direction, np.float32(SCORE_WEIGHT) * side))


def _normalized(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalized: Floats = vectors / np.maximum(lengths, np.float32(_EPSILON))
    return normalized
