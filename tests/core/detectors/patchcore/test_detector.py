# SPDX-License-Identifier: Apache-2.0

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from blemish_core.calibration import Calibration
from blemish_core.detectors.base import (
    Detector,
    Image,
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
from blemish_core.detectors.patchcore.position_norm import expected_distances
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training import features
from blemish_core.detectors.patchcore.training.features import measure_changes
from blemish_core.detectors.patchcore.training.train import fits_on_device, train
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.detectors.patchcore.training.whitening import PatchChanges, Whitening
from blemish_core.imaging.image_input import Region
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest, JobCancelled, TooLarge

SMALL = PatchCoreSettings(input_size=64, coreset_ratio=0.25)


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
    scratch: Path | None = None,
    max_scratch_bytes: int = 1 << 30,
    fast: Callable[[nn.Module, int], Runtime | None] = lambda network, input_size: None,
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
            scratch=scratch,
            max_scratch_bytes=max_scratch_bytes,
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


def test_whitened_features_vary_equally_in_all_directions(training: TrainingResult) -> None:
    plain = trained(24, settings=replace(SMALL, whitened=False))
    spans = []
    for each in (training, plain):
        detector = each.detector
        assert isinstance(detector, TrainablePatchCore)
        with torch.inference_mode():
            features, _ = detector.features([detector.prepare(stripes(seed)) for seed in range(100, 108)])
        variances = torch.linalg.eigvalsh(torch.cov(features.flatten(0, 1).T))
        spans.append(float(variances[-1] / variances.mean()))
    assert spans[0] < spans[1] / 3


def test_held_out_images_do_not_affect_the_detector(training: TrainingResult) -> None:
    reads: list[ReadImage] = [partial(stripes, number) for number in range(24)]
    reads[training.held_out_indices[0]] = partial(stripes, 7, defect=True)
    other = trained(24, reads=reads)
    for name in ("feature_whitening", "feature_shift", "whitening", "memory_bank", "usual_distances"):
        assert torch.equal(training.detector.tensors()[name], other.detector.tensors()[name])


def test_cross_calibration_leaves_each_fold_out_of_its_whitening(monkeypatch: pytest.MonkeyPatch) -> None:
    excluded: list[list[int]] = []
    fit = Whitening.fit

    def fit_and_record(
        features: torch.Tensor, changes: Sequence[PatchChanges], without: Sequence[int] = ()
    ) -> Whitening:
        excluded.append([int(number) for number in without])
        assert all(len(each.anomalous) and len(each.harmless) for each in changes)
        return fit(features, changes, without)

    monkeypatch.setattr(Whitening, "fit", fit_and_record)
    trained(6)
    *folds, last = excluded
    assert last == []  # the published detector is trained on all
    assert sorted(itertools.chain(*folds)) == list(range(6))
    features = torch.randn(6, 40, 8)
    changes = [PatchChanges(torch.randn(5, 8), torch.randn(7, 8)) for _ in range(6)]
    others = [1, 2, 4, 5]
    torch.testing.assert_close(
        fit(features, changes, [0, 3]).matrix,
        fit(features[others], [changes[number] for number in others]).matrix,
    )


@pytest.mark.parametrize("count", [3, 100])
def test_few_images_have_several_copies_and_many_have_some(count: int) -> None:
    detector = TrainablePatchCore(SMALL)
    detector.load_pretrained(Path("nowhere"))
    reads = [partial(stripes, number) for number in range(count)]
    with torch.inference_mode():
        features = torch.cat([detector.features([detector.prepare(read())])[0] for read in reads])
        reported: list[int] = []
        changes = measure_changes(detector, reads, features, 0, reported.append)
        alone = measure_changes(detector, reads[:1] * count, features[:1].expand(count, -1, -1), 0)
    assert reported[-1] == max(reported) == 64
    assert len(changes) == count
    altered = [len(each.anomalous) for each in changes if len(each.anomalous)]
    disturbed = [len(each.harmless) for each in changes if len(each.harmless)]
    assert len(altered) == len(disturbed) == min(count, 64)
    assert 64 <= sum(altered) <= 64 * 16
    assert sum(disturbed) == 64 * 64
    for kind in ("anomalous", "harmless"):
        assert torch.cat([getattr(each, kind) for each in changes]).norm(dim=1).median() > 0.1
        # The copies of an image do not depend on the other images.
        torch.testing.assert_close(getattr(changes[0], kind), getattr(alone[0], kind))


def test_identical_images_are_rejected() -> None:
    with pytest.raises(FailedPrecondition, match="the 24 good images are identical"):
        trained(24, reads=[partial(stripes, 1)] * 24)


def test_disturbed_copies_make_camera_noise_less_anomalous(
    training: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def undisturbed(image: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        return image, torch.ones(image.shape[1:], dtype=torch.bool)

    monkeypatch.setattr(features, "disturb", undisturbed)
    unaware = trained(24).detector
    good = [stripes(seed) for seed in range(300, 312)]
    defects = [stripes(seed, defect=True) for seed in range(300, 312)]
    random = np.random.default_rng(0)
    noisy = [(image + random.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8) for image in good]

    def share(detector: Detector) -> float:
        """Return the shift of good scores by noise, relative to the shift by defects."""
        plain, noisier, bad = (
            np.mean([each.score for each in detector.predict(list(map(detector.prepare, images)))])
            for images in (good, noisy, defects)
        )
        return float((noisier - plain) / (bad - plain))

    assert 0 <= share(training.detector) < 0.8 * share(unaware)


def test_loaded_whitened_detector_scores_the_same(training: TrainingResult) -> None:
    detector = training.detector
    back = TrainablePatchCore.load(detector.settings, detector.tensors())
    inputs = [detector.prepare(stripes(100)), detector.prepare(stripes(101, defect=True))]
    for before, after in zip(detector.predict(inputs), back.predict(inputs), strict=True):
        assert after.score == pytest.approx(before.score, rel=1e-6)


def test_version_without_whitened_setting_scores_as_before() -> None:
    plain = trained(24, settings=replace(SMALL, whitened=False)).detector
    settings = {name: value for name, value in plain.settings.items() if name != "whitened"}
    tensors = plain.tensors()
    assert "feature_whitening" not in tensors
    back = TrainablePatchCore.load(settings, tensors)
    image = plain.prepare(stripes(101, defect=True))
    assert back.predict([image])[0].score == pytest.approx(plain.predict([image])[0].score, rel=1e-6)
    assert back.settings["whitened"] is False


def test_version_without_fine_setting_scores_as_before() -> None:
    coarse = trained(24, settings=replace(SMALL, fine=False)).detector
    settings = {name: value for name, value in coarse.settings.items() if name != "fine"}
    back = TrainablePatchCore.load(settings, coarse.tensors())
    image = coarse.prepare(stripes(101, defect=True))
    assert back.predict([image])[0].score == pytest.approx(coarse.predict([image])[0].score, rel=1e-6)
    assert back.settings["fine"] is False


def test_paper_settings_use_two_stages_and_default_settings_three() -> None:
    def dimensions(settings: PatchCoreSettings) -> int:
        detector = TrainablePatchCore(settings)
        patches, grid = detector.features([detector.prepare(stripes(0))])
        assert grid == (8, 8)
        return patches.shape[2]

    assert dimensions(replace(SMALL, whitened=False)) == 152
    assert dimensions(SMALL) == 152 + 2 * 24
    assert dimensions(replace(SMALL, fine=False)) == 152
    assert dimensions(replace(SMALL, whitened=False, fine=True)) == 152 + 2 * 24


def test_version_without_expected_distances_scores_by_distance(
    training: TrainingResult,
) -> None:
    detector = training.detector
    tensors = detector.tensors()
    expected = tensors.pop("usual_distances")
    before = TrainablePatchCore.load(detector.settings, tensors)
    even = TrainablePatchCore.load(
        detector.settings, tensors | {"usual_distances": torch.ones_like(expected)}
    )
    image = detector.prepare(stripes(101, defect=True))
    scores = [each.predict([image])[0].score for each in (detector, before, even)]
    assert scores[1] == scores[2] != scores[0]


def test_expected_distances_ignore_entries_of_the_same_image() -> None:
    detector = TrainablePatchCore(SMALL)
    features = torch.randn(3, 64, 200)
    features[:, :8] *= 3  # the first row of each image is far from the rest
    detector.set_memory_bank(features.flatten(0, 1))
    owners = torch.arange(3).repeat_interleave(64)
    detector.measure_expected_distances(features, (8, 8), range(3), owners)
    distances = [
        torch.cdist(
            features[image], features[[other for other in range(3) if other != image]].flatten(0, 1)
        )
        for image in range(3)
    ]
    expected = detector.tensors()["usual_distances"]
    torch.testing.assert_close(
        expected, expected_distances(torch.stack([d.amin(1) for d in distances]), (8, 8))
    )
    assert expected[:8].min() > expected[16:].max()


def test_training_measures_each_image_against_the_others(training: TrainingResult) -> None:
    detector = training.detector
    assert isinstance(detector, TrainablePatchCore)
    before = detector.tensors()["usual_distances"]
    learned = [number for number in range(24) if number not in training.held_out_indices]
    with torch.inference_mode():
        features, grid = detector.features([detector.prepare(stripes(number)) for number in learned])
    entries = detector.tensors()["memory_bank"]
    owners = torch.cdist(entries, features.flatten(0, 1)).argmin(1) // features.shape[1]
    detector.measure_expected_distances(features, grid, range(len(learned)), owners)
    torch.testing.assert_close(detector.tensors()["usual_distances"], before, rtol=1e-3, atol=1e-3)


def test_expected_distances_are_one_if_one_image_has_all_entries() -> None:
    detector = trained(2).detector  # cross-calibrated with banks of one image
    assert detector.tensors()["usual_distances"].isfinite().all()
    assert isinstance(detector, TrainablePatchCore)
    detector.measure_expected_distances(
        torch.randn(1, 64, 200), (8, 8), [0], torch.zeros(len(detector.tensors()["memory_bank"]))
    )
    assert detector.tensors()["usual_distances"].equal(torch.ones(64))


def test_bank_has_at_least_as_many_entries_as_neighbors() -> None:
    few = trained(4, settings=replace(SMALL, coreset_ratio=0.001)).detector.tensors()
    assert len(few["memory_bank"]) == SMALL.neighbors


def test_some_of_many_images_are_held_out(training: TrainingResult) -> None:
    assert training.method == "held out"
    assert len(training.held_out_scores.scores) == 8  # 5 % needs 19, but at most a third is held out
    assert training.learned == 16


def test_few_images_are_cross_calibrated() -> None:
    training = trained(4)
    assert training.method == "cross-calibration"
    assert len(training.held_out_scores.scores) == 4
    assert training.learned == 4


def test_equal_seeds_give_equal_detectors(training: TrainingResult) -> None:
    again = trained(24)
    assert again.held_out_scores == training.held_out_scores
    assert again.detector.tensors()["memory_bank"].equal(training.detector.tensors()["memory_bank"])


@pytest.mark.parametrize("count", [6, 24])
def test_fast_runtime_computes_features_and_is_then_replaced_by_torch(count: int) -> None:
    batches: list[int] = []

    class Fast(TorchRuntime):
        name = "fast"

        def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
            batches.append(len(images))
            return super().__call__(images)

    def fast(network: nn.Module, input_size: int) -> Runtime:
        assert input_size == SMALL.input_size
        return Fast(network, torch.device("cpu"))

    quick, plain = trained(count, fast=fast), trained(count)
    assert sum(batches) == count + 2 * 64  # each image once, and copies
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
        features, _ = detector.features([torch.randn(3, 64, 64) for _ in range(40)])
        detector.set_memory_bank(features.flatten(0, 1))
    detector.find_supports()
    return detector


def test_index_is_stored_and_is_rebuilt_if_missing(indexed: TrainablePatchCore) -> None:
    tensors = indexed.tensors()
    assert {"index_centroids", "supports"} <= set(tensors)
    image = indexed.prepare(stripes(7, defect=True))
    (prediction,) = indexed.predict([image])
    for lost in ("nothing", "index_centroids", "supports"):
        kept = {name: tensor for name, tensor in tensors.items() if name != lost}
        (again,) = TrainablePatchCore.load(indexed.settings, kept).predict([image])
        assert again.score == prediction.score
        assert np.array_equal(again.anomaly_map, prediction.anomaly_map)


def test_score_of_a_frame_does_not_depend_on_its_batch(indexed: TrainablePatchCore) -> None:
    inputs = [indexed.prepare(stripes(seed, defect=seed % 2 == 1)) for seed in range(5)]
    with torch.inference_mode():
        features, grid = indexed.features(inputs)
        together = indexed.predict_from_features(features, grid)
        alone = [indexed.predict_from_features(one[None], grid)[0] for one in features]
    assert [o.score for o in together] == [o.score for o in alone]
    assert all(np.array_equal(a.anomaly_map, b.anomaly_map) for a, b in zip(together, alone, strict=True))


def test_every_phase_of_progress_is_completed() -> None:
    reported: dict[str, tuple[int, int]] = {}

    def progress(phase: str, done: int, total: int, unit: str) -> None:
        reported[phase] = (done, total)

    trained(20, progress=progress)
    assert set(reported) == {"features", "alterations", "coreset", "supports", "places", "calibration"}
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


def test_features_over_the_memory_limit_are_rejected_with_the_sizes() -> None:
    with pytest.raises(TooLarge, match=r"need 13 MiB.*BLEMISH_MAX_FEATURE_BYTES allows 1 MiB"):
        trained(250, max_bytes=1 << 20)


def test_features_over_both_limits_are_rejected_with_the_sizes(tmp_path: Path) -> None:
    with pytest.raises(
        TooLarge,
        match=r"need 13 MiB.*BLEMISH_MAX_FEATURE_BYTES allows 1 MiB.*BLEMISH_MAX_SCRATCH_BYTES 2 MiB",
    ):
        trained(250, max_bytes=1 << 20, scratch=tmp_path, max_scratch_bytes=2 << 20)


def test_memory_bank_over_the_memory_limit_is_rejected_despite_free_disk(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match=r"memory bank.*need 3 MiB.*coreset_ratio"):
        trained(250, max_bytes=1 << 20, scratch=tmp_path)


@pytest.mark.parametrize("images", [6, 24])
def test_features_in_a_file_give_the_same_detector(images: int, tmp_path: Path) -> None:
    in_memory = trained(images)
    needed = images * 64 * 200 * 4
    mapped = trained(images, max_bytes=needed // 2, scratch=tmp_path)
    assert mapped.held_out_scores == in_memory.held_out_scores
    assert mapped.detector.tensors()["memory_bank"].equal(in_memory.detector.tensors()["memory_bank"])
    assert list(tmp_path.iterdir()) == []


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
