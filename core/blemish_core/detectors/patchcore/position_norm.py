# SPDX-License-Identifier: Apache-2.0
"""Normalisation of distances by position: at some positions good patches lie farther from the bank.

A network that pads its input with zeros gives other features near the border than inside. Lenses that are
darker at the edge, and parts that always lie in the same position, have similar effects. A distance divided
by the expected distance at its position is comparable to all others, so defects inside the image stand out.
"""

import torch
from scipy import ndimage
from torch import Tensor

# Standard deviation of the Gaussian over positions, in patches. Neighbouring positions expect nearly the
# same distance, while measurements of single patches are noisy.
_SMOOTHING = 1.0
# Weight of the average of all positions, in images: few images are too noisy to measure one position.
_PRIOR_IMAGES = 10


def expected_distances(distances: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the expected distance of good patches at each position, (P,), relative to their average.

    Args:
        distances: (N, P), of the patches of N good images, none of them in the bank.
        grid: rows and columns of the P patches.

    Returns:
        Positive values; ones if no distances are given or all are zero.
    """
    count, positions = distances.shape
    average = distances.mean()
    if not count or not average > 0:
        return torch.ones(positions)
    relative = (distances.mean(0) / average).reshape(grid).cpu().numpy()
    smooth = torch.from_numpy(ndimage.gaussian_filter(relative, _SMOOTHING, mode="nearest")).flatten()
    return (count * smooth + _PRIOR_IMAGES) / (count + _PRIOR_IMAGES)
