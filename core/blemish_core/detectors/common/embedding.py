# SPDX-License-Identifier: Apache-2.0
"""One embedding per image for similarity search: whitened features, pooled by anomaly, and the score.

A plain mean of the features would hide a small defect in the good surface around it, so patches are
weighted by their anomaly. Pooled in this way, a good image is described by its least typical part. The mean
of these parts is subtracted, and the rest is whitened by their covariance, the variation to ignore. Other
patches of good images vary in other directions.

The stages of a backbone are whitened and normalised one by one. Otherwise the stage with the larger
deviations would outvote the others. The score separates good images from defective ones, because the most
anomalous patch of a good image may resemble a faint defect.

``tests/benchmarks/bench_embeddings.py`` compares alternatives; docs/benchmarks.md has its results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

# Weight of the score relative to pooled features of length 1.
_SCORE_WEIGHT = 0.5
# In standard deviations above the mean score of good images: the score that is neither good nor defective,
# and the distance from there to a clear case. Compare with bench_embeddings.
_UNDECIDED, _DECIDED = 1.5, 2.0
TEMPERATURE = 0.7
"""Softmax temperature relative to the deviation of good patches' anomaly.

Lower values select the most anomalous patch alone, higher ones approach the mean.
"""
# Share of the mean variance that is added to each, so that directions without variance are not amplified.
_SHRINKAGE = 0.1
# Share and least number of an image's patches that count as its farthest.
_FAR_SHARE, _LEAST_FAR = 0.05, 64
# Relative distance to the center below which directions are rounding errors and fade out.
_NEAR = 0.02


def temperature(anomaly: Tensor, share: float = TEMPERATURE) -> Tensor:
    """Return the temperature of ``pooled``, (), from the anomaly of good patches, of any shape."""
    return share * anomaly.std()


def pooled(features: Tensor, anomaly: Tensor, temperature: Tensor) -> Tensor:
    """Pool features (B, P, D) to (B, D), weighted by a softmax over the anomaly (B, P) of each patch."""
    weights = functional.softmax(anomaly / temperature, dim=1)
    return weights[:, None].bmm(features)[:, 0]  # @ would fix the batch size in an export


def whitening(features: Tensor) -> Tensor:
    """Return a symmetric W (D, D): features (N, D) times W vary nearly equally in all directions."""
    return whitening_of(torch.cov(features.double().T))


def whitening_of(covariance: Tensor, shrinkage: float = _SHRINKAGE) -> Tensor:
    """Return the whitening W (D, D), symmetric and float32, of features with a covariance (D, D).

    ``shrinkage`` is the share of the mean variance that is added to each variance.
    """
    variances, directions = torch.linalg.eigh(covariance)
    variances = variances.clamp_min(0)
    scales = (variances + shrinkage * variances.mean()).clamp_min(1e-12).rsqrt()
    whitened: Tensor = (directions * scales) @ directions.T
    return whitened.float()


@dataclass(frozen=True)
class FarPatches:
    """The patches of a good image that are least like the others, and so most like a defect."""

    features: Tensor
    """(K, D)."""
    anomaly: Tensor
    """(K,)."""

    @classmethod
    def of(cls, features: Tensor, anomaly: Tensor) -> Self:
        """Select from the features (P, D) of a good image by the anomaly (P,) of each patch."""
        count = min(len(anomaly), max(_LEAST_FAR, round(_FAR_SHARE * len(anomaly))))
        rows = anomaly.topk(count).indices
        return cls(features[rows], anomaly[rows])


def fit_directions(
    images: Sequence[FarPatches], temperature: Tensor, stages: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the center (D,) and the whitening (D, D) of ``embeddings`` from good images.

    Args:
        images: farthest patches of good images that the detector was not trained on.
        temperature: see ``temperature``.
        stages: number of features of each stage, D together.
    """
    center = torch.cat(
        [pooled(each.features[None], each.anomaly[None], temperature) for each in images]
    ).mean(0)
    far = torch.cat([each.features for each in images]).double()
    maps = [whitening_of(torch.cov(part.T)) for part in by_stage(far, stages)]
    together = torch.zeros(far.shape[1], far.shape[1])
    end = 0
    for part in maps:
        begin, end = end, end + len(part)
        together[begin:end, begin:end] = part
    return center, together


def embeddings(
    features: Tensor,
    center: Tensor,
    whitening: Tensor,
    scores: Tensor,
    scale: Tensor,
    stages: Sequence[int] = (),
) -> Tensor:
    """Return vectors (B, D + 1) of length 1 from pooled features (B, D) and image scores (B,).

    Args:
        features: pooled features.
        center: (D,), subtracted, because the common part of all images separates none.
        whitening: (D, D).
        scores: image scores.
        scale: result of ``score_scale``.
        stages: as in ``directions``.
    """
    away = features - center
    near = _NEAR * features.norm(dim=1, keepdim=True)
    fading = (away.norm(dim=1, keepdim=True) / near.clamp_min(1e-12)).clamp_max(1)
    return joined(directions(away @ whitening, stages) * fading, scores, scale)


def directions(deviations: Tensor, stages: Sequence[int] = ()) -> Tensor:
    """Return the directions (..., D) of whitened deviations (..., D), of length 1 or less.

    Args:
        deviations: deviations from the center of good images.
        stages: number of features of each stage, D together; empty for one stage. All have equal lengths.
    """
    parts = by_stage(deviations, stages) if stages else (deviations,)
    together = torch.cat([functional.normalize(part, dim=-1) for part in parts], dim=-1)
    shared: Tensor = together * len(parts) ** -0.5
    return shared


def by_stage(features: Tensor, stages: Sequence[int]) -> tuple[Tensor, ...]:
    """Split features (..., D) into those of each stage, given the number of each."""
    return torch.tensor_split(features, list(accumulate(stages))[:-1], dim=-1)


def joined(directions: Tensor, scores: Tensor, scale: Tensor) -> Tensor:
    """Return vectors (B, D + 1) of length 1 from directions (B, D) of length 1 or less and scores (B,)."""
    weighted = _SCORE_WEIGHT * sides(scores, scale)
    return functional.normalize(torch.cat([directions, weighted[:, None]], dim=1), dim=1)


def sides(scores: Tensor, scale: Tensor) -> Tensor:
    """Map scores (B,) to the range from -1 (good) to 1 (defective)."""
    undecided, decided = scale
    side: Tensor = ((scores - undecided) / decided).tanh()
    return side


def score_scale(scores: Tensor) -> Tensor:
    """Return the center and the width (2,) of ``sides`` from scores of good images."""
    deviation = (scores.std() if len(scores) > 1 else torch.ones(())).clamp_min(1e-6)
    return torch.stack([scores.mean() + _UNDECIDED * deviation, _DECIDED * deviation])


def take_score_scale(tensors: dict[str, Tensor]) -> Tensor:
    """Remove the ``score_scale`` from a bundle's tensors and return it.

    Older versions store mean and deviation, and their images are indexed at two deviations.
    """
    if "score_scale" in tensors:
        return tensors.pop("score_scale")
    mean, deviation = tensors.pop("good_scores")
    return torch.stack([mean + 2 * deviation, 2 * deviation])
