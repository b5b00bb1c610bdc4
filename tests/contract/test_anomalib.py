# SPDX-License-Identifier: Apache-2.0
"""PatchCore equals anomalib's: equal weights, inputs and banks give equal scores and maps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.metrics import AUPRO
from tests.support.patches import patch_features
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from blemish_client.demo.surfaces import generate
from blemish_core.detectors.base import Prediction
from blemish_core.detectors.common.embedding import whitening
from blemish_core.detectors.patchcore.settings import PatchCoreSettings, requested
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.evaluation.pixel_metrics import PixelHistograms
from blemish_core.imaging.decode import decode
from blemish_core.imaging.geometry import Square
from blemish_core.imaging.preprocessing import Preprocessing


def assert_the_same(ours: Sequence[Prediction], theirs: InferenceBatch) -> None:
    assert theirs.pred_score is not None
    assert theirs.anomaly_map is not None
    np.testing.assert_allclose([o.score for o in ours], theirs.pred_score, rtol=1e-4)
    np.testing.assert_allclose(
        np.stack([o.anomaly_map for o in ours]), theirs.anomaly_map[:, 0], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("neighbors", [1, 9])
def test_scores_and_maps_equal_anomalib(neighbors: int) -> None:
    torch.manual_seed(1)
    settings = requested(input_size=128, neighbors=neighbors, whitened=False)
    detector = TrainablePatchCore(settings)
    with torch.inference_mode():
        patches, _ = patch_features(detector, torch.randn(4, 3, 128, 128).unbind())
        detector.set_memory_bank(patches.flatten(0, 1)[::7])
        batch = torch.randn(3, 3, 128, 128)
        theirs = detector.model(batch)
    assert_the_same(detector.predict(batch.unbind()), theirs)


def test_scores_of_older_versions_with_fine_whitened_features_equal_anomalib() -> None:
    torch.manual_seed(2)
    settings = PatchCoreSettings(input_size=128, fine=True, relative=False)
    detector = TrainablePatchCore(settings)
    with torch.inference_mode():
        plain = patch_features(detector, torch.randn(4, 3, 128, 128).unbind())[0].flatten(0, 1)
        matrix, shift = whitening(plain), torch.randn(plain.shape[1])
        detector.set_memory_bank(plain[::7])
        older = TrainablePatchCore.load(
            detector.settings,
            detector.tensors()
            | {
                "feature_whitening": matrix,
                "feature_shift": shift,
                "memory_bank": (plain @ matrix + shift)[::7],
            },
        )
        batch = torch.randn(3, 3, 128, 128)
        # anomalib's model with two changes: after the stages of the backbone and where features are joined.
        join = older.model.generate_embedding

        def fine(_: object, images: object, stages: dict[str, Tensor]) -> dict[str, Tensor]:
            return stages | {"blocks.1": halves(stages["blocks.1"])}

        def joined(features: dict[str, Tensor]) -> Tensor:
            maps = join(features)
            return torch.einsum("bdhw,de->behw", maps, matrix) + shift[:, None, None]

        older.model.generate_embedding = joined  # type: ignore[method-assign]
        with older.model.feature_extractor.register_forward_hook(fine):
            theirs = older.model(batch)
    assert_the_same(older.predict(batch.unbind()), theirs)


def halves(features: Tensor) -> Tensor:
    """Return mean and standard deviation of each 2 x 2."""
    fours = features.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    return torch.cat([fours.mean(-1), fours.std(-1, correction=0)], dim=1)


def test_scores_of_older_versions_with_distances_by_position_equal_anomalib() -> None:
    torch.manual_seed(3)
    detector = TrainablePatchCore(requested(input_size=128, whitened=False))
    with torch.inference_mode():
        patches, _ = patch_features(detector, torch.randn(4, 3, 128, 128).unbind())
        detector.set_memory_bank(patches.flatten(0, 1)[::7])
        detector.find_supports()
        expected = torch.rand(256) + 0.5
        older = TrainablePatchCore.load(
            detector.settings, detector.tensors() | {"usual_distances": expected}
        )
        batch = torch.randn(3, 3, 128, 128)
        # anomalib's model with one change: where it finds the distance of every patch.
        find = detector.model.nearest_neighbors

        def found(embedding: Tensor, n_neighbors: int) -> tuple[Tensor, Tensor]:
            distances, rows = find(embedding=embedding, n_neighbors=n_neighbors)
            return (distances / expected.repeat(3) if n_neighbors == 1 else distances), rows

        detector.model.nearest_neighbors = found  # type: ignore[method-assign]
        theirs = detector.model(batch)
    assert_the_same(older.predict(batch.unbind()), theirs)


def test_scores_with_an_index_equal_anomalib(surface: Path) -> None:
    settings = requested(whitened=False)
    detector = TrainablePatchCore(settings)
    detector.load_pretrained(surface)

    def prepared(folder: str) -> list[Tensor]:
        files = sorted((surface / folder).glob("*/*.png"))
        return [detector.prepare(decode(file.read_bytes())) for file in files]

    detector.set_memory_bank(patch_features(detector, prepared("train"))[0].flatten(0, 1))
    assert "index_centroids" in detector.tensors()
    batch = prepared("test")
    with torch.inference_mode():
        theirs = detector.model(torch.stack(batch))
    ours = detector.predict(batch)
    np.testing.assert_allclose([o.score for o in ours], theirs.pred_score, rtol=1e-4)
    above = np.stack([o.anomaly_map for o in ours]) / theirs.anomaly_map[:, 0].numpy() - 1
    assert above.min() > -1e-4  # never smaller
    assert above.mean() < 0.01


@pytest.fixture
def surface(tmp_path: Path) -> Path:
    """Return images with structure, unlike noise, and free of rights, unlike photographs."""
    folder = tmp_path / "leather"
    generate(folder, "leather", train=4, good=1, defective=4)
    return folder


def test_scaling_equals_torchvision() -> None:
    image = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    ours = Preprocessing(Square(64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(image)
    theirs = resize(torch.from_numpy(image).permute(2, 0, 1).float() / 255, [64, 64], antialias=True)
    torch.testing.assert_close(torch.from_numpy(ours), theirs)


def test_aupro_equals_anomalib() -> None:
    random = np.random.default_rng(2)
    masks = [np.zeros((64, 64), np.bool_) for _ in range(4)]
    masks[0][5:20, 5:20] = True
    masks[1][40:44, 8:30] = True
    masks[1][10:14, 40:50] = True
    masks[2][30:60, 30:60] = True
    maps = [(random.normal(size=m.shape) + 2 * m).astype(np.float32) for m in masks]
    metric = AUPRO(fields=["anomaly_map", "gt_mask"], fpr_limit=0.3)
    metric.update(
        ImageBatch(
            image=torch.zeros(4, 3, 64, 64),
            anomaly_map=torch.tensor(np.stack(maps)),
            gt_mask=torch.tensor(np.stack(masks)),
        )
    )
    histograms = PixelHistograms()
    for pixels, mask in zip(maps, masks, strict=True):
        histograms.add("hole" if mask.any() else "good", pixels, mask)
    assert histograms.metrics()["aupro"].value == pytest.approx(float(metric.compute()), abs=2e-3)
