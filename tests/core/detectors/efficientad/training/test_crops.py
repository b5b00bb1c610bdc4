# SPDX-License-Identifier: Apache-2.0
"""Losses on crops of features equal those on crops of images."""

import numpy as np
import pytest
import torch
from tests.support.narrow import narrow

from blemish_core.detectors.efficientad import teacher
from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.efficientad.training.crops import FeatureCrops, TargetFeatures
from blemish_core.detectors.efficientad.training.losses import hard_mean
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd

_SIDE = 80
"""Side of an image whose features are one crop, px."""
_CROPS = 8
"""Crops of the surface in a step."""


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> TrainableEfficientAd:
    from blemish_core.detectors.common.anomalib_models import SmallPatchDescriptionNetwork

    narrow(monkeypatch, SmallPatchDescriptionNetwork)
    torch.manual_seed(5)
    return TrainableEfficientAd(EfficientAdSettings(), autoencoder=False)


def test_loss_of_a_crop_equals_that_of_its_image(detector: TrainableEfficientAd) -> None:
    student = detector.model.student
    image, photograph = torch.rand(2, 1, 3, _SIDE, _SIDE)
    targets = torch.rand(1, 384, 12, 12)
    with torch.inference_mode():
        distance = (student(image) - targets).square()
        # A step takes the same crop several times here.
        expected = hard_mean(distance.expand(_CROPS, -1, -1, -1)) + student(photograph).square().mean()
        weights = dict(student.named_parameters())
        field, other = (teacher.lower_layers(weights, each)[0] for each in (image, photograph))
    crops = FeatureCrops(detector.model, [TargetFeatures(field, targets[0])], [], [other])
    loss = crops.loss(np.random.default_rng(0))
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
    trained = {id(parameter) for parameter in crops.parameters}
    for name, parameter in student.named_parameters():
        assert (id(parameter) in trained) == (parameter.grad is not None), name


def test_held_out_loss_repeats(detector: TrainableEfficientAd) -> None:
    features = [TargetFeatures(torch.rand(32, 30, 30), torch.rand(384, 25, 25)) for _ in range(2)]
    crops = FeatureCrops(detector.model, features[:1], features[1:], [torch.rand(32, 30, 30)])
    assert crops.held_out_loss() == crops.held_out_loss()
