# SPDX-License-Identifier: Apache-2.0
"""Features and distances equal anomalib's on equal random weights, for networks of several families."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from anomalib.models.image.anomaly_dino.torch_model import AnomalyDINOModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from torch import Tensor, nn
from torch.nn import functional

from blemish_core.detectors.common.backbone import Backbone
from blemish_core.detectors.patchcore.settings import requested
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "resnet18", "convnext_atto"]
)
def test_features_of_convolutional_networks_equal_patchcore(name: str) -> None:
    torch.manual_seed(1)
    backbone = Backbone.named(name)
    theirs = PatchcoreModel(backbone.layers, backbone.timm_name, pre_trained=False).eval()
    detector = TrainablePatchCore(requested(backbone=name))
    detector.model.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 96, 160)
    with torch.inference_mode():
        (maps,) = detector.network(images)
        stages = {
            layer: theirs.feature_pooler(each) for layer, each in theirs.feature_extractor(images).items()
        }
        expected = theirs.generate_embedding(stages)
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.fixture
def anomaly_dino(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], AnomalyDINOModel]:
    """Return a factory of anomalib's model with random weights, which it would download."""
    create: Callable[..., Any] = timm.create_model

    def offline(name: str, **arguments: Any) -> Any:
        return create(name, **(arguments | {"pretrained": False}))

    def made(name: str) -> AnomalyDINOModel:
        with monkeypatch.context() as patched:
            patched.setattr(timm, "create_model", offline)
            model = AnomalyDINOModel(encoder_name=name).eval()
        for weight in model.feature_encoder.parameters():  # initial weights hardly depend on the image
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5 if weight.ndim == 2 else 0.2)
        return model

    return made


@pytest.mark.parametrize(
    ("name", "patch_px"),
    [
        ("vit_small_patch14_dinov2", 14),
        ("vit_small_patch14_reg4_dinov2", 14),
        ("vit_small_patch16_dinov3", 16),
    ],
)
def test_transformers_equal_anomaly_dino(
    anomaly_dino: Callable[[str], AnomalyDINOModel], name: str, patch_px: int
) -> None:
    torch.manual_seed(2)
    theirs = anomaly_dino(name)
    detector = TrainablePatchCore(requested(backbone=name, whitened=False, neighbors=1))
    extractor = detector.model.feature_extractor.feature_extractor
    extractor.load_state_dict(theirs.feature_encoder.feature_extractor.state_dict())

    def scaled(images: Tensor) -> Tensor:
        """Return images with patches of ``patch_px`` where the detector's have 16 px."""
        size = [side // 16 * patch_px for side in images.shape[2:]]
        return functional.interpolate(images, size, mode="bilinear")

    good, images = torch.randn(3, 3, 192, 256), torch.randn(2, 3, 192, 256)
    with torch.inference_mode():
        (maps,) = detector.network(good)
        patches = maps.flatten(2).transpose(1, 2)
        expected = functional.normalize(theirs.extract_features(scaled(good)), dim=2)
        torch.testing.assert_close(patches, expected, rtol=1e-4, atol=1e-5)
        bank = expected.flatten(0, 1)[::7].contiguous()
        theirs.memory_bank = bank
        outcome = theirs(scaled(images))
        detector.set_memory_bank(bank)
        found = detector.predict_with_patches(images.unbind())
    for number, each in enumerate(found):
        # The squared distance of features of length 1 is twice their cosine distance, which is theirs.
        cosine = torch.from_numpy(each.anomaly).square() / 2
        # Their score is the mean of the farthest 1 % of patches: 1 of 192. Ours is a distance.
        np.testing.assert_allclose(cosine.max(), outcome.pred_score[number, 0], rtol=1e-3)
        np.testing.assert_allclose(each.prediction.score**2 / 2, outcome.pred_score[number, 0], rtol=1e-3)
        theirs_map = theirs.anomaly_map_generator(cosine[None, None], scaled(images).shape[2:])
        np.testing.assert_allclose(theirs_map[0], outcome.anomaly_map[number], rtol=1e-3, atol=1e-5)
