# SPDX-License-Identifier: Apache-2.0
"""One vector an image, for search: whitened features pooled where they are anomalous, and the score.

A plain mean drowns a small defect in good surface. What good patches differ in, light and grain, says
nothing of a defect: whitening by their covariance takes it down to the size of all the rest. The score
keeps good images by good ones: their most anomalous patch may look like the faintest of a defect.

Chosen by measurement: candidates in ``tests/benchmarks/bench_embeddings.py``, their table in
``docs/guides/search.md``.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Of the score in an embedding, beside pooled features of length 1.
_SCORE_WEIGHT = 0.5
# Deviations above the mean score of good images: where an image is like neither side, and how far from
# there it is like one. Good or defective P@5, means of two trainings on three draws of grid, leather and
# tile each: 2 deviations 0.965, 0.970, 0.910; 2.5 0.969, 0.974, 0.913; 3 0.972, 0.974, 0.917; 3.5 0.970,
# 0.972, 0.912. The same defect, 2 and 3: 0.724, 0.672, 0.792 and 0.718, 0.665, 0.778.
_UNDECIDED, _DECIDED = 3.0, 2.0
# Of the deviation of good patches' anomaly: lower takes the most anomalous patch alone, higher the mean.
TEMPERATURE = 0.7
# Of the mean variance, added to each: directions that hardly vary in a few good images are not blown up.
_SHRINKAGE = 0.1
# Of the features' length: what lies nearer to the center has no direction but that of rounding, and fades.
_NEAR = 0.02


def temperature(anomaly: Tensor, share: float = TEMPERATURE) -> Tensor:
    """Return what ``pooled`` divides by, (), from the anomaly of good patches, of any shape."""
    return share * anomaly.std()


def pooled(features: Tensor, anomaly: Tensor, temperature: Tensor) -> Tensor:
    """Pool features (B, P, D) by a softmax over the anomaly (B, P) of each patch: (B, D)."""
    weights = functional.softmax(anomaly / temperature, dim=1)
    return weights[:, None].bmm(features)[:, 0]  # @ would write the size of the batch into an export


def whitening(features: Tensor) -> Tensor:
    """Return W (D, D), symmetric: features (N, D) of good patches times W vary nearly alike all around."""
    return whitening_of(torch.cov(features.double().T))


def whitening_of(covariance: Tensor, shrinkage: float = _SHRINKAGE) -> Tensor:
    """Return W (D, D), symmetric, float32: features of ``covariance`` (D, D) times W vary nearly alike.

    ``shrinkage`` is the share of the mean variance that is added to each.
    """
    variances, directions = torch.linalg.eigh(covariance)
    variances = variances.clamp_min(0)
    scales = (variances + shrinkage * variances.mean()).clamp_min(1e-12).rsqrt()
    whitened: Tensor = (directions * scales) @ directions.T
    return whitened.float()


def embeddings(
    features: Tensor, center: Tensor, whitening: Tensor, scores: Tensor, scale: Tensor
) -> Tensor:
    """Return vectors (B, D + 1) of length 1 from pooled features (B, D) and image scores (B,).

    ``center`` (D,) is taken off, since what all images share tells none apart; ``scale`` is a
    ``score_scale``.
    """
    away = features - center
    near = _NEAR * features.norm(dim=1, keepdim=True)
    fading = (away.norm(dim=1, keepdim=True) / near.clamp_min(1e-12)).clamp_max(1)
    return joined(functional.normalize(away @ whitening, dim=1) * fading, scores, scale)


def joined(directions: Tensor, scores: Tensor, scale: Tensor) -> Tensor:
    """Return vectors (B, D + 1) of length 1 from directions (B, D), no longer than 1, and scores (B,)."""
    sided = _SCORE_WEIGHT * sides(scores, scale)
    return functional.normalize(torch.cat([directions, sided[:, None]], dim=1), dim=1)


def sides(scores: Tensor, scale: Tensor) -> Tensor:
    """Return on which side scores (B,) are: -1 for good to 1 for defective."""
    undecided, decided = scale
    side: Tensor = ((scores - undecided) / decided).tanh()
    return side


def score_scale(scores: Tensor) -> Tensor:
    """Return by what ``sides`` tells sides, (2,), from scores of good images."""
    deviation = (scores.std() if len(scores) > 1 else torch.ones(())).clamp_min(1e-6)
    return torch.stack([scores.mean() + _UNDECIDED * deviation, _DECIDED * deviation])


def take_score_scale(tensors: dict[str, Tensor]) -> Tensor:
    """Take the ``score_scale`` out of a bundle's tensors.

    Versions from before it have mean and deviation, and images indexed by two deviations above the mean.
    """
    if "score_scale" in tensors:
        return tensors.pop("score_scale")
    mean, deviation = tensors.pop("good_scores")
    return torch.stack([mean + 2 * deviation, 2 * deviation])
