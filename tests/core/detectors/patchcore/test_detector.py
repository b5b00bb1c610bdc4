# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.patches import patch_features
from torch import Tensor, nn

from blemish_core.calibration import Calibration
from blemish_core.detectors.base import (
    Detector,
    Image,
    PatchFeatures,
    Progress,
    ReadImage,
    Runtime,
    TrainingContext,
    TrainingResult,
    running_on,
    silent,
)
from blemish_core.detectors.common.regions import describe_region, locate_region, region_mask
from blemish_core.detectors.common.torch_runtime import TorchRuntime
from blemish_core.detectors.patchcore.settings import PatchCoreSettings, requested
from blemish_core.detectors.patchcore.training.coreset import greedy_coreset
from blemish_core.detectors.patchcore.training.train import fits_on_device, train
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.imaging.geometry import ANY_SIZE, Size
from blemish_core.imaging.image_input import Region
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest, JobCancelled, TooLarge

SMALL = PatchCoreSettings(backbone="efficientnet_lite0", input_size=64, coreset_ratio=0.25)
PAPER = requested(whitened=False, backbone="efficientnet_lite0", input_size=64, coreset_ratio=0.25)


def stripes(seed: int, *, defect: bool = False) -> Image:
    random = np.random.default_rng(seed)
    wave = 120 + 60 * np.sin(np.arange(96) / 4 + random.uniform(0, 6))
    image = np.repeat(wave[None, :], 96, axis=0) + random.normal(0, 4, (96, 96))
    if defect:
        image[30:60, 30:60] = random.uniform(0, 255, (30, 30))
    return np.repeat(image.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def trained(
    images: int,
    *,
    settings: PatchCoreSettings = SMALL,
    reads: Sequence[ReadImage] = (),
    seed: int = 0,
    progress: Progress = silent,
    max_bytes: int = 1 << 30,
    fast: Callable[[nn.Module, Size], Runtime | None] = lambda network, input_size: None,
) -> TrainingResult:
    return train(
        settings,
        reads or [partial(stripes, number) for number in range(images)],
        TrainingContext(
            weights=Path("nowhere"),
            seed=seed,
            target_false_reject_rate=0.05,
            progress=progress,
            max_feature_bytes=max_bytes,
            fast_runtime=fast,
        ),
    )


@pytest.fixture(scope="module")
def training() -> TrainingResult:
    return trained(24)


def test_defect_scores_above_the_threshold_and_is_located(training: TrainingResult) -> None:
    detector = training.detector
    good, bad = detector.predict(
        [detector.prepare(stripes(100)), detector.prepare(stripes(101, defect=True))]
    )
    calibration = Calibration.of(training.held_out_scores.scores, training.held_out_scores.map_maxima, 0.05)
    assert not calibration.is_anomalous(good.score)
    assert calibration.is_anomalous(bad.score)
    row, column = np.unravel_index(bad.anomaly_map.argmax(), bad.anomaly_map.shape)
    assert bad.anomaly_map.shape == (64, 64)
    assert 16 <= row <= 44
    assert 16 <= column <= 44
    assert np.linalg.norm(bad.embedding) == pytest.approx(1, abs=1e-5)


def test_nearest_embedding_is_of_the_same_kind(training: TrainingResult) -> None:
    detector = training.detector
    images = [stripes(seed, defect=seed % 2 == 1) for seed in range(200, 212)]
    vectors = np.stack(
        [prediction.embedding for prediction in detector.predict(list(map(detector.prepare, images)))]
    )
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    assert all((nearest - own) % 2 == 0 for own, nearest in enumerate(similar.argmax(1)))


def pooled_direction(patches: PatchFeatures) -> Tensor:
    """Return the mean deviation (D,) of patches, weighted by a softmax over their anomaly."""
    weights = torch.softmax(torch.from_numpy(patches.anomaly).flatten() / patches.spread, dim=0)
    return weights @ torch.from_numpy(patches.deviations).flatten(0, 1)


def test_both_stages_have_equal_shares_of_an_embedding(training: TrainingResult) -> None:
    (patches,) = training.detector.predict_with_patches([training.detector.prepare(stripes(1))])
    fine, coarse = patches.stages
    assert fine + coarse == patches.deviations.shape[-1] == len(patches.prediction.embedding) - 1
    direction = torch.from_numpy(patches.prediction.embedding[:-1])
    deviation = pooled_direction(patches)
    for part, of in ((direction[:fine], deviation[:fine]), (direction[fine:], deviation[fine:])):
        torch.testing.assert_close(part / direction.norm(), 0.5**0.5 * of / of.norm(), rtol=0, atol=1e-4)


def test_version_without_stages_is_embedded_as_before(training: TrainingResult) -> None:
    tensors = training.detector.tensors()
    assert tensors.pop("embedding_stages").tolist() == [40, 112]
    older = TrainablePatchCore.load(training.detector.settings, tensors)
    (patches,) = older.predict_with_patches([older.prepare(stripes(1, defect=True))])
    direction = torch.from_numpy(patches.prediction.embedding[:-1])
    deviation = pooled_direction(patches)
    torch.testing.assert_close(
        direction / direction.norm(), deviation / deviation.norm(), rtol=0, atol=1e-4
    )


def test_region_of_a_whole_image_has_the_embedding_of_the_image(
    training: TrainingResult,
) -> None:
    detector = training.detector
    inputs = [detector.prepare(stripes(seed, defect=seed % 2 == 1)) for seed in (100, 101)]
    for prediction, patches in zip(
        detector.predict(inputs), detector.predict_with_patches(inputs), strict=True
    ):
        assert patches.prediction.score == pytest.approx(prediction.score, rel=1e-4)
        np.testing.assert_allclose(patches.prediction.embedding, prediction.embedding, atol=1e-4)
        whole = describe_region(patches, np.ones((64, 64), bool), threshold=1.0)
        np.testing.assert_allclose(whole.embedding, prediction.embedding, atol=1e-3)


def test_region_of_a_defect_is_located_in_another_image(training: TrainingResult) -> None:
    detector = training.detector
    calibration = Calibration.of(training.held_out_scores.scores, training.held_out_scores.map_maxima, 0.05)
    bad, other = detector.predict_with_patches(
        [detector.prepare(stripes(seed, defect=True)) for seed in (101, 103)]
    )
    query = describe_region(bad, region_mask((64, 64), Region(20, 20, 24, 24)), calibration.pixel_threshold)
    found = locate_region(other, (64, 64), query, calibration.pixel_threshold)
    assert found.similarity > 0.5
    assert 16 <= found.box.left + found.box.width / 2 <= 44
    assert 16 <= found.box.top + found.box.height / 2 <= 44


def test_held_out_images_do_not_affect_the_memory_bank() -> None:
    reads: list[ReadImage] = [partial(stripes, number) for number in range(60)]
    training = trained(60, max_bytes=1)
    noise = np.random.default_rng(97).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    reads[training.held_out_indices[0]] = lambda: noise
    other = trained(60, reads=reads, max_bytes=1)
    assert torch.equal(training.detector.tensors()["memory_bank"], other.detector.tensors()["memory_bank"])


def test_cross_calibration_scores_each_image_by_a_bank_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    select = greedy_coreset

    def select_and_record(points: Tensor, *arguments: object, **options: object) -> list[int]:
        sizes.append(len(points))
        return select(points, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("blemish_core.detectors.patchcore.training.train.greedy_coreset", select_and_record)
    trained(6)
    *folds, last = sizes
    assert last == 6 * 64  # the published detector is trained on all
    assert sum(6 * 64 - each for each in folds) == last  # each image was left out once


def test_identical_images_are_rejected() -> None:
    with pytest.raises(FailedPrecondition, match="the 24 good images are identical"):
        trained(24, reads=[partial(stripes, 1)] * 24)


def test_older_version_with_whitened_features_scores_by_them() -> None:
    plain = trained(24, settings=PAPER).detector
    tensors = plain.tensors()
    dimensions = tensors["memory_bank"].shape[1]
    doubled = TrainablePatchCore.load(
        plain.settings,
        tensors
        | {
            "feature_whitening": 2 * torch.eye(dimensions),
            "feature_shift": torch.ones(dimensions),
            "memory_bank": 2 * tensors["memory_bank"] + 1,
        },
    )
    image = plain.prepare(stripes(101, defect=True))
    before, after = plain.predict([image])[0], doubled.predict([image])[0]
    np.testing.assert_allclose(after.anomaly_map, 2 * before.anomaly_map, rtol=1e-4)
    again = TrainablePatchCore.load(doubled.settings, doubled.tensors())
    assert again.predict([image])[0].score == pytest.approx(after.score, rel=1e-6)


def test_version_without_whitened_setting_scores_as_before() -> None:
    plain = trained(24, settings=PAPER).detector
    settings = {
        name: value
        for name, value in plain.settings.items()
        if name not in ("whitened", "relative", "max_entries", "frame")
    }
    tensors = plain.tensors()
    assert "feature_whitening" not in tensors
    back = TrainablePatchCore.load(settings, tensors)
    image = plain.prepare(stripes(101, defect=True))
    assert back.predict([image])[0].score == pytest.approx(plain.predict([image])[0].score, rel=1e-6)
    assert back.settings["whitened"] is False


def test_older_versions_with_a_third_stage_have_more_dimensions() -> None:
    def dimensions(settings: PatchCoreSettings) -> int:
        detector = TrainablePatchCore(settings)
        (patches,) = detector.patches([detector.prepare(stripes(0))])
        assert patches.grid == (8, 8)
        return patches.features.shape[1]

    assert dimensions(PAPER) == dimensions(SMALL) == 152
    assert dimensions(replace(SMALL, fine=True)) == 152 + 2 * 24


def test_version_without_scale_sees_squares() -> None:
    detector = TrainablePatchCore(SMALL)
    wide = np.zeros((96, 300, 3), np.uint8)
    assert detector.prepare(wide).shape == (3, 64, 64)
    assert TrainablePatchCore(replace(SMALL, scale=0.5)).prepare(wide).shape == (3, 64, 144)


def test_expected_distances_of_older_versions_divide_distances() -> None:
    detector = trained(24, settings=PAPER).detector
    tensors = detector.tensors()
    image = detector.prepare(stripes(101, defect=True))
    even, halved = (
        TrainablePatchCore.load(detector.settings, tensors | {"usual_distances": torch.full((64,), unit)})
        for unit in (1.0, 2.0)
    )
    plain = detector.predict([image])[0].anomaly_map
    np.testing.assert_array_equal(even.predict([image])[0].anomaly_map, plain)
    np.testing.assert_allclose(halved.predict([image])[0].anomaly_map, plain / 2, rtol=1e-5)


def test_images_of_several_shapes_are_trained_on_and_scored_at_one_scale() -> None:
    def part(seed: int) -> Image:
        return stripes(seed)[: 96 - 16 * (seed % 2), : 96 - 24 * (seed % 3)]

    settings = replace(SMALL, input_size=96)
    detector = trained(
        24, settings=settings, reads=[partial(part, number) for number in range(24)]
    ).detector
    assert detector.frame is None
    whole, narrow = detector.predict([detector.prepare(stripes(50)), detector.prepare(stripes(50)[:, :60])])
    rows, columns = whole.anomaly_map.shape
    assert narrow.anomaly_map.shape == (rows, columns - 32)
    assert whole.score == pytest.approx(narrow.score, rel=0.25)


def test_images_of_one_size_are_remembered_as_the_frame(training: TrainingResult) -> None:
    assert training.detector.frame == (96, 96)
    detector = training.detector
    assert TrainablePatchCore.load(detector.settings, detector.tensors()).frame == (96, 96)


def test_large_input_is_cut_into_tiles_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = TrainablePatchCore(replace(SMALL, scale=1.0))
    detector.load_pretrained(Path("nowhere"))
    image = np.concatenate([stripes(seed) for seed in range(12)], axis=1)[:80]
    whole = detector.patches([detector.prepare(image)])[0]
    monkeypatch.setattr("blemish_core.detectors.patchcore.tiling.LONGEST", 256)
    tiled = detector.patches([detector.prepare(image)])[0]
    assert tiled.grid == whole.grid == (10, 144)
    difference = (tiled.features - whole.features).norm(dim=1).reshape(whole.grid)
    spread = (whole.features - whole.features.mean(0)).norm(dim=1).mean()
    assert float(difference.max() / spread) < 0.1, "seams are visible"
    assert float(difference[:, :8].max() / spread) < 1e-4, "patches far from a seam differ"


def test_image_with_stronger_texture_as_a_whole_scores_like_others(training: TrainingResult) -> None:
    relative, plain = training.detector, trained(24, settings=replace(SMALL, relative=False)).detector

    def rise(detector: Detector) -> float:
        """Return by how much noise all over the image raises its score."""
        random = np.random.default_rng(0)
        image = stripes(300).astype(float)
        noisy = (image + random.normal(0, 12, image.shape)).clip(0, 255).astype(np.uint8)
        before, after = detector.predict([detector.prepare(stripes(300)), detector.prepare(noisy)])
        return after.score / before.score

    assert rise(relative) < 0.8 * rise(plain)


def test_image_of_another_kind_stays_anomalous(training: TrainingResult) -> None:
    detector = training.detector
    calibration = Calibration.of(training.held_out_scores.scores, training.held_out_scores.map_maxima, 0.05)
    random = np.random.default_rng(1)
    for other in (np.zeros((96, 96, 3)), np.full((96, 96, 3), 255.0), random.uniform(0, 255, (96, 96, 3))):
        (prediction,) = detector.predict([detector.prepare(other.astype(np.uint8))])
        assert calibration.is_anomalous(prediction.score)


def test_features_over_the_memory_limit_are_rejected_with_the_sizes() -> None:
    large = np.tile(stripes(0), (4, 4, 1))
    reads: list[ReadImage] = [lambda: large, *(partial(stripes, number) for number in range(1, 19))]
    with pytest.raises(TooLarge, match=r"19 images need \d+ MiB.*BLEMISH_MAX_FEATURE_BYTES allows 4 MiB"):
        trained(19, reads=reads, max_bytes=4 << 20)


def test_some_images_are_held_out_if_the_patches_of_all_exceed_the_memory_limit() -> None:
    training = trained(18, max_bytes=1 << 19)
    assert (training.method, training.learned, len(training.held_out_indices)) == ("held out", 12, 6)


def test_many_patches_are_sampled_from_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blemish_core.detectors.patchcore.training.features.MOST_PATCHES", 16 * 20)
    result = trained(24, max_bytes=1)  # no limit holds for a sample
    assert result.facts["bank"] == "80 of 320 patches"


def test_bank_has_at_least_as_many_entries_as_neighbors() -> None:
    few = trained(4, settings=replace(PAPER, coreset_ratio=0.001)).detector.tensors()
    assert len(few["memory_bank"]) == PAPER.neighbors


def test_bank_has_at_most_max_entries() -> None:
    small = trained(24, settings=replace(SMALL, max_entries=40)).detector.tensors()
    assert len(small["memory_bank"]) == 40


def test_as_many_images_are_held_out_as_the_target_needs() -> None:
    training = trained(60, max_bytes=1)
    assert training.method == "held out"
    assert len(training.held_out_scores.scores) == 19  # as many as 5 % needs
    assert training.learned == 41


@pytest.mark.parametrize("count", [4, 60])
def test_images_are_cross_calibrated(count: int) -> None:
    training = trained(count)
    assert training.method == "cross-calibration"
    assert len(training.held_out_scores.scores) == count
    assert training.learned == count


def test_some_of_many_images_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blemish_core.detectors.patchcore.training.train.CROSS_CALIBRATE_BELOW", 60)
    assert trained(59).method == "cross-calibration"
    assert trained(60).method == "held out"


def test_equal_seeds_give_equal_detectors(training: TrainingResult) -> None:
    again = trained(24)
    assert again.held_out_scores == training.held_out_scores
    assert again.detector.tensors()["memory_bank"].equal(training.detector.tensors()["memory_bank"])


@pytest.mark.parametrize("max_bytes", [1 << 30, 1], ids=["cross-calibration", "held out"])
def test_fast_runtime_computes_features_and_is_then_replaced_by_torch(max_bytes: int) -> None:
    count = 12
    batches: list[int] = []

    class Fast(TorchRuntime):
        name = "fast"

        def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
            batches.append(len(images))
            return super().__call__(images)

    def fast(network: nn.Module, input_size: Size) -> Runtime:
        assert input_size == ANY_SIZE
        return Fast(network, torch.device("cpu"))

    quick, plain = trained(count, max_bytes=max_bytes, fast=fast), trained(count, max_bytes=max_bytes)
    assert sum(batches) == count + 2  # each image once, and the plan measures an empty one
    assert quick.detector.runtime.name == "torch"
    assert (quick.facts["features by"], plain.facts["features by"]) == ("fast", "torch")
    assert quick.held_out_scores == plain.held_out_scores
    for name, tensor in plain.detector.tensors().items():
        assert torch.equal(tensor, quick.detector.tensors()[name]), name


def test_loaded_detector_gives_identical_predictions(training: TrainingResult) -> None:
    detector = training.detector
    copy = TrainablePatchCore.load(detector.settings, detector.tensors())
    image = stripes(7, defect=True)
    (before,), (after,) = detector.predict([detector.prepare(image)]), copy.predict([copy.prepare(image)])
    assert after.score == before.score
    assert np.array_equal(after.anomaly_map, before.anomaly_map)
    assert np.array_equal(after.embedding, before.embedding)


@pytest.fixture(scope="module")
def indexed() -> TrainablePatchCore:
    detector = TrainablePatchCore(SMALL)
    torch.manual_seed(3)
    with torch.inference_mode():
        features, _ = patch_features(detector, [torch.randn(3, 64, 64) for _ in range(40)])
        detector.set_memory_bank(features.flatten(0, 1))
    detector.find_supports()
    return detector


def test_index_is_stored_and_is_rebuilt_if_missing(indexed: TrainablePatchCore) -> None:
    tensors = indexed.tensors()
    assert "index_centroids" in tensors
    image = indexed.prepare(stripes(7, defect=True))
    (prediction,) = indexed.predict([image])
    for lost in ("nothing", "index_centroids"):
        kept = {name: tensor for name, tensor in tensors.items() if name != lost}
        (again,) = TrainablePatchCore.load(indexed.settings, kept).predict([image])
        assert again.score == prediction.score
        assert np.array_equal(again.anomaly_map, prediction.anomaly_map)


def test_progress_of_a_phase_never_decreases() -> None:
    reported: dict[str, list[int]] = {}
    trained(20, progress=lambda phase, done, total, unit: reported.setdefault(phase, []).append(done))
    assert set(reported["calibration"]) == set(range(21))
    for phase, counts in reported.items():
        assert counts == sorted(counts), phase


def test_every_phase_of_progress_is_completed() -> None:
    reported: dict[str, tuple[int, int]] = {}

    def progress(phase: str, done: int, total: int, unit: str) -> None:
        reported[phase] = (done, total)

    trained(20, progress=progress)
    assert set(reported) == {"copies", "features", "coreset", "supports", "calibration"}
    assert all(done == total for done, total in reported.values())


def test_cancelled_training_ends() -> None:
    def progress(phase: str, done: int, total: int, unit: str) -> None:
        if phase == "coreset":
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        trained(4, progress=progress)


def test_temporary_runtime_is_replaced_after_an_error_too(training: TrainingResult) -> None:
    detector = training.detector
    own, other = detector.runtime, TorchRuntime(detector.network, torch.device("cpu"))
    with pytest.raises(JobCancelled), running_on(detector, other):
        assert detector.runtime is other
        raise JobCancelled("enough")
    assert detector.runtime is own
    with running_on(detector, None):
        assert detector.runtime is own


def test_single_image_is_rejected() -> None:
    with pytest.raises(FailedPrecondition, match="at least 2 good images"):
        trained(1)


def test_features_are_kept_on_a_gpu_only_if_its_memory_suffices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patches = torch.empty(1 << 20, 4)  # 16 MiB
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((2 << 30) + (17 << 20), 1 << 40))
    assert fits_on_device(patches, "cuda:0")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: ((2 << 30) + (15 << 20), 1 << 40))
    assert not fits_on_device(patches, "cuda:0")
    assert not fits_on_device(patches, "cpu")


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"input_size": 32}, "patchcore.input_size"),
        ({"coreset_ratio": 0.0}, "patchcore.coreset_ratio"),
        ({"coreset_ratio": float("nan")}, "patchcore.coreset_ratio"),
        ({"neighbors": 0}, "patchcore.neighbors"),
    ],
)
def test_settings_out_of_range_are_rejected(settings: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        PatchCoreSettings(**settings)  # type: ignore[arg-type]
    assert refusal.value.field == field
