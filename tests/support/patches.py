# SPDX-License-Identifier: Apache-2.0
"""Patch features of several inputs of one size in one tensor."""

from collections.abc import Sequence

import torch
from torch import Tensor

from blemish_core.detectors.patchcore.detector import PatchCore


def patch_features(detector: PatchCore, inputs: Sequence[Tensor]) -> tuple[Tensor, tuple[int, int]]:
    """Return features (B, P, D) and the grid (rows, columns) of the P patches of each input."""
    found = detector.patches(inputs)
    return torch.stack([each.features for each in found]), found[0].grid
