# SPDX-License-Identifier: Apache-2.0
"""EfficientAD equals anomalib's: equal weights and inputs give equal losses, scores and maps."""

import numpy as np
import pytest
import torch
from anomalib.models.image.efficient_ad import lightning_model
from tests.support.narrow import narrow

from blemish_core.detectors.common.anomalib_models import (
    EfficientAdModel,
    EfficientAdModelSize,
    MediumPatchDescriptionNetwork,
)
from blemish_core.detectors.efficientad import teacher
from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.efficientad.training.losses import losses_of_step, teacher_features_of
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd
from blemish_core.models import downloads


def _randomise(model: EfficientAdModel) -> None:
    model.mean_std["mean"].data.normal_(0, 0.1)
    model.mean_std["std"].data.uniform_(0.1, 0.3)
    for name, value in {"qa_st": 0.5, "qb_st": 2.0, "qa_ae": 0.3, "qb_ae": 1.5}.items():
        model.quantiles[name].data.fill_(value)


@pytest.mark.parametrize("input_size", [256, 320])
def test_scores_and_maps_equal_anomalib(input_size: int) -> None:
    torch.manual_seed(1)
    detector = TrainableEfficientAd(EfficientAdSettings(input_size=input_size))
    _randomise(detector.model)
    batch = torch.rand(2, 3, input_size, input_size)
    with torch.inference_mode():
        theirs = detector.model(batch)
    ours = detector.predict(batch.unbind())
    np.testing.assert_allclose([o.score for o in ours], theirs.pred_score[:, 0], rtol=1e-4)
    np.testing.assert_allclose(
        np.stack([o.anomaly_map for o in ours]), theirs.anomaly_map[:, 0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("size", ["small", "medium"])
def test_teacher_features_equal_anomalib(size: str) -> None:
    torch.manual_seed(4)
    network, images = teacher.network(size), torch.rand(2, 3, 64, 80)
    with torch.inference_mode():
        theirs = network(images)
        ours = teacher.features(network.state_dict(), images)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_losses_and_gradients_equal_anomalib(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    if size == "medium":  # narrower, because the full width takes a minute
        narrow(monkeypatch, MediumPatchDescriptionNetwork)
    model = EfficientAdModel(384, EfficientAdModelSize(size)).train()
    model.teacher.eval()
    _randomise(model)
    image, photograph = torch.rand(2, 1, 3, 256, 256)
    augmented = image * 0.9
    monkeypatch.setattr(model, "choose_random_aug_image", lambda _: augmented)
    torch.manual_seed(3)  # dropout
    theirs = model(image, photograph)
    torch.stack(theirs).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    ours = losses_of_step(model, image, teacher_features_of(model, image), photograph, augmented)
    torch.stack(ours).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-4, atol=1e-6)
    for name, value in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(value.grad, gradients[name], rtol=1e-3, atol=1e-5)


def test_downloads_equal_those_of_anomalib() -> None:
    for ours, theirs in (
        (downloads.TEACHERS, lightning_model.WEIGHTS_DOWNLOAD_INFO),
        (downloads.PHOTOGRAPHS, lightning_model.IMAGENETTE_DOWNLOAD_INFO),
    ):
        assert (ours.url, ours.sha256) == (theirs.url, theirs.hashsum)
