# SPDX-License-Identifier: Apache-2.0
"""The coreset equals anomalib's: equal features and start give equal selections."""

from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy
from tests.support.patches import patch_features
from torch import Tensor

from blemish_client.demo.surfaces.specimen import CATEGORIES, Origin, draw
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.coreset import greedy_coreset
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore

# anomalib computes distances in float32, whose precision is 1.2e-7.
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def patches() -> Tensor:
    """Return patches (6144, 152) of good tiles, leathers and grids."""
    settings = PatchCoreSettings()
    detector = TrainablePatchCore(settings)
    detector.load_pretrained(Path("nowhere"))
    origins = [
        Origin(name, "train", "good", index, seed=0, size=128) for name in CATEGORIES for index in (0, 1)
    ]
    with torch.inference_mode():
        features, _ = patch_features(detector, [detector.prepare(draw(origin).image) for origin in origins])
    return features.flatten(0, 1).clone()


def compare(points: Tensor, ours: list[int], theirs: list[int]) -> int:
    """Compare both selections by exact distances; return the number of picks that differ by ties."""
    exact, apart = points.double(), "donot_use_mm_for_euclid_dist"
    # nearest[:, k]: distance to the nearest of the first k + 1 picks, (N, keep)
    nearest = torch.cdist(exact, exact[ours], compute_mode=apart).cummin(1).values
    before, after = nearest[:, :-1], nearest[:, -1]
    picked = before.gather(0, torch.tensor(ours[1:])[None])[0]
    assert (picked >= before.amax(0) * (1 - ROUNDING)).all(), "a pick of ours is not the farthest point"

    differing = [index for index in range(len(ours)) if ours[index] != theirs[index]]
    for index in differing:
        if set(ours[:index]) == set(theirs[:index]):
            rivals = before[[ours[index], theirs[index]], index - 1]
            assert rivals[1] == pytest.approx(rivals[0], rel=ROUNDING), f"pick {index} is not a tie"

    radius = torch.cdist(exact, exact[theirs], compute_mode=apart).amin(1).max()
    assert after.max() <= radius * (1 + ROUNDING), "the covering radius grew"
    return len(differing)


@pytest.mark.parametrize("projected", [False, True])
def test_selection_equals_anomalib(patches: Tensor, projected: bool) -> None:
    torch.manual_seed(11)
    np.random.seed(11)
    # anomalib projects flat embeddings only, at random.
    sampler = KCenterGreedy(patches if projected else patches[..., None], sampling_ratio=0.06)
    theirs = sampler.select_coreset_idxs()
    assert len(theirs) == 368
    ours = greedy_coreset(sampler.features, len(theirs), first=theirs[0])
    assert compare(sampler.features, ours, theirs) <= 4


def test_comparison_rejects_a_pick_that_is_not_the_farthest(patches: Tensor) -> None:
    picks = greedy_coreset(patches, 100, first=0)
    with pytest.raises(AssertionError, match="not the farthest"):
        compare(patches, [*picks[:50], *picks[60:]], picks[:90])
