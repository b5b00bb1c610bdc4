# SPDX-License-Identifier: Apache-2.0
"""Detectors in NumPy, as servers run them, give the predictions of the detectors in torch."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tests.support.imports import SLOW_WITH_ANOMALIB, imported_by
from torch import Tensor
from torch.nn import functional

from blemish_core.calibration import Calibration
from blemish_core.detectors.base import Detector, Image, Prediction, TrainingContext, silent
from blemish_core.detectors.common import anomaly_map as maps_in_torch
from blemish_core.detectors.common import masking as masks_in_torch
from blemish_core.detectors.common.regions import describe_region, locate_region
from blemish_core.detectors.efficientad.detector import EfficientAd
from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.patchcore.detector import PatchCore
from blemish_core.detectors.patchcore.settings import PatchCoreSettings, stored
from blemish_core.detectors.patchcore.training.train import train
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest, TrainingSplit
from blemish_core.models.loading import load_detector, write_weights
from blemish_core.runtimes import openvino_runtime
from blemish_core.runtimes.card import RuntimeCard
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.serving import anomaly_map, masking
from blemish_core.serving.detector import ArrayDetector
from blemish_core.serving.loading import load_for_serving

TOLERANCE = 1e-6
"""Largest difference of scores, relative to the score."""
OPENVINO = RuntimeChoice("openvino", threads=1)
SIDE = 192


def surface(seed: int, *, spot: bool = False) -> Image:
    """Return a smooth random texture, with a dark spot if wanted."""
    random = np.random.default_rng(seed)
    noise = random.normal(128, 60, (SIDE, SIDE, 3)).astype(np.float32)
    pixels = np.clip(cv2.GaussianBlur(noise, (0, 0), 1.5) * 1.5 - 64, 0, 255).astype(np.uint8)
    if spot:
        pixels[90:120, 60:95] //= 3
    return np.asarray(pixels, np.uint8)


IMAGES = [surface(100), surface(101, spot=True), surface(102)[:150, :170], surface(103, spot=True)]


def write_bundle(detector: Detector, folder: Path) -> Path:
    openvino_runtime.export(detector.network, detector.network_size, folder / "openvino" / "model.xml")
    sha256, size = write_weights(detector, folder)
    sha256 |= bundle.sha256_below(folder, bundle.OPENVINO)
    manifest = Manifest(
        model="tile",
        version=1,
        detector=detector.name,
        settings=detector.settings,
        input_size=detector.input_size,
        category="tile",
        dataset="tile",
        dataset_snapshot="",
        created=datetime.now(UTC),
        job="1",
        seed=0,
        split=TrainingSplit(learned=10, held_out=2, method="held out"),
        calibration=Calibration.of([1.0, 2.0], [1.0, 2.0], 0.25),
        metrics=None,
        runtimes={"openvino": RuntimeCard(file="openvino/model.xml")},
        libraries={},
        sha256=sha256,
        size_bytes=size,
    )
    bundle.write_manifest(manifest, folder)
    return folder


@pytest.fixture(scope="module")
def patchcore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle whose bank is large enough for an index."""
    settings = PatchCoreSettings(input_size=SIDE, backbone="efficientnet_lite0", coreset_ratio=0.5)
    context = TrainingContext(Path("nowhere"), 0, 0.05, silent)
    result = train(settings, [partial(surface, seed) for seed in range(10)], context)
    assert "index_centroids" in result.detector.tensors()
    return write_bundle(result.detector, tmp_path_factory.mktemp("patchcore"))


@pytest.fixture(scope="module")
def efficientad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    detector = EfficientAd(EfficientAdSettings(), autoencoder=False)
    tensors = detector.tensors() | {"spread": torch.tensor(0.05)}
    scales = [name for name in tensors if name.endswith((".std", ".qb_st"))]
    tensors |= {name: torch.ones_like(tensors[name]) for name in scales}
    detector = EfficientAd.load(detector.settings, tensors)
    return write_bundle(detector, tmp_path_factory.mktemp("efficientad"))


def prepared_by_torch(detector: Detector, image: Image) -> Tensor:
    """Return the input as before detectors in NumPy, scaled by torch."""
    assert isinstance(detector, PatchCore)
    settings = stored(detector.settings)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    size = settings.geometry.input_size(image.shape[:2])
    if pixels.shape[-2:] != size:
        pixels = functional.interpolate(pixels, size, mode="bilinear", antialias=True)
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in settings.channels())
    return (pixels[0] / 255 - mean) / deviation


def assert_equal(expected: Prediction, found: Prediction) -> None:
    assert found.score == pytest.approx(expected.score, rel=TOLERANCE)
    scale = float(np.abs(expected.anomaly_map).max())
    np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, atol=2e-6 * scale, rtol=0)
    assert found.anomaly_map.dtype == found.embedding.dtype == np.float32
    np.testing.assert_allclose(found.embedding, expected.embedding, atol=1e-5)


def half_mask(side: int = SIDE) -> FrameMask:
    """Return a mask that ignores the left quarter of frames and a block."""
    looks = np.ones((side, side), bool)
    looks[:, : side // 4] = False
    looks[100:130, 100:140] = False
    return FrameMask(looks)


@pytest.mark.parametrize("kind", ["patchcore", "efficientad"])
@pytest.mark.parametrize("masked", [False, True])
def test_predictions_equal_those_in_torch(kind: str, masked: bool, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    _, reference = load_detector(folder, "cpu", OPENVINO)
    _, served = load_for_serving(folder, "cpu", OPENVINO)
    assert isinstance(served, ArrayDetector)
    images = IMAGES
    if masked:
        reference.mask, served.mask = half_mask(), half_mask()
        images = [image for image in IMAGES if image.shape[0] == SIDE]
    inputs = [served.prepare(image) for image in images]
    expected = reference.predict([torch.from_numpy(each) for each in inputs])
    for one, other in zip(expected, served.predict(inputs), strict=True):
        assert_equal(one, other)
    with_patches = reference.predict_with_patches([torch.from_numpy(each) for each in inputs])
    for theirs, ours in zip(with_patches, served.predict_with_patches(inputs), strict=True):
        assert_equal(theirs.prediction, ours.prediction)
        scale = float(np.abs(theirs.deviations).max())
        np.testing.assert_allclose(ours.deviations, theirs.deviations, atol=1e-5 * scale)
        np.testing.assert_allclose(ours.anomaly, theirs.anomaly, rtol=1e-5, atol=1e-6)
        assert ours.spread == pytest.approx(theirs.spread)
        np.testing.assert_allclose(ours.score_scale, theirs.score_scale)
        assert (ours.margin, ours.stages) == (theirs.margin, theirs.stages)
        whole = np.ones(images[0].shape[:2], bool)
        query = describe_region(ours, whole, threshold=1.0)
        assert locate_region(theirs, images[0].shape[:2], query, 1.0).similarity >= 0
    assert (served.name, served.input_size, served.frame) == (
        reference.name,
        reference.input_size,
        reference.frame,
    )


def test_scores_equal_those_of_inputs_scaled_by_torch(patchcore: Path) -> None:
    """The whole path from pixels, as it was when servers needed torch."""
    _, reference = load_detector(patchcore, "cpu", OPENVINO)
    _, served = load_for_serving(patchcore, "cpu", OPENVINO)
    for factor in (0.5, 1.0, 1.7, 4.1):
        for image in IMAGES:
            resized = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
            frame = np.asarray(resized, np.uint8)
            (expected,) = reference.predict([prepared_by_torch(reference, frame)])
            (found,) = served.predict([served.prepare(frame)])
            assert found.score == pytest.approx(expected.score, rel=TOLERANCE)


def test_flat_frames_and_frames_of_noise_score_as_in_torch(patchcore: Path) -> None:
    _, reference = load_detector(patchcore, "cpu", OPENVINO)
    _, served = load_for_serving(patchcore, "cpu", OPENVINO)
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    for image in (np.zeros_like(noise), np.full_like(noise, 255), noise):
        (expected,) = reference.predict([reference.prepare(image)])
        (found,) = served.predict([served.prepare(image)])
        assert_equal(expected, found)


def test_large_frames_are_scored_in_tiles_as_in_torch(patchcore: Path) -> None:
    _, reference = load_detector(patchcore, "cpu", OPENVINO)
    _, served = load_for_serving(patchcore, "cpu", OPENVINO)
    large = np.random.default_rng(1).normal(0, 1, (3, 320, 5600)).astype(np.float32)
    (expected,) = reference.predict([torch.from_numpy(large)])
    (found,) = served.predict([large])
    assert_equal(expected, found)


def test_model_is_served_without_libraries_of_training(patchcore: Path) -> None:
    script = (
        "from pathlib import Path; import numpy\n"
        "from blemish_server.app import App; from blemish_server.wiring import build_app\n"
        "from blemish_core.serving.loading import load_for_serving\n"
        f"manifest, detector = load_for_serving(Path({str(patchcore)!r}), 'cpu')\n"
        "detector.predict_with_patches([detector.prepare(numpy.zeros((192, 200, 3), 'u1'))])\n"
        "assert detector.runtime.name == 'openvino'"
    )
    of_training = SLOW_WITH_ANOMALIB | {"torch", "nncf", "sklearn", "anomalib"}
    assert of_training & imported_by(script) == set()


def test_server_imports_no_compiler_before_a_model_needs_it() -> None:
    script = "from blemish_server.app import App; from blemish_server.wiring import build_app"
    assert {"torch", "numba", "scipy", "sklearn", "openvino"} & imported_by(script) == set()


@pytest.mark.parametrize(("cells", "side"), [(7, 56), (24, 192), (13, 100), (9, 250), (40, 320), (33, 64)])
def test_map_of_any_size_equals_that_in_torch(cells: int, side: int) -> None:
    distances = np.random.default_rng(cells).random((cells, 2 * cells)).astype(np.float32)
    expected = maps_in_torch.anomaly_map(torch.from_numpy(distances), (side, 2 * side), maps_in_torch.BLUR)
    found = anomaly_map.anomaly_map(distances, (side, 2 * side))
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize("grid", [(24, 24), (12, 18), (7, 5), (11, 3)])
def test_mask_selects_the_patches_that_it_selects_in_torch(grid: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    for share in (0.001, 0.1, 0.5, 0.9):
        looks = random.random((192, 144)) < share
        looks[60:90] = False
        expected = masks_in_torch.patch_looks(torch.from_numpy(looks), grid)
        np.testing.assert_array_equal(masking.patch_looks(looks, grid), expected.numpy())
