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


def test_a_defect_scores_higher_and_where_it_is(training: TrainingResult) -> None:
    detector = training.detector
    good, bad = detector.predict(
        [detector.prepare(stripes(100)), detector.prepare(stripes(101, defect=True))]
    )
    calibration = Calibration.of(training.held_out_scores.scores, training.held_out_scores.map_maxima, 0.05)
    assert not calibration.anomalous(good.score)
    assert calibration.anomalous(bad.score)
    row, column = np.unravel_index(bad.anomaly_map.argmax(), bad.anomaly_map.shape)
    assert bad.anomaly_map.shape == (64, 64)
    assert 16 <= row <= 44
    assert 16 <= column <= 44
    assert np.linalg.norm(bad.embedding) == pytest.approx(1, abs=1e-5)


def test_a_defect_is_more_like_a_defect_and_good_like_good(training: TrainingResult) -> None:
    detector = training.detector
    images = [stripes(seed, defect=seed % 2 == 1) for seed in range(200, 212)]
    vectors = np.stack(
        [outcome.embedding for outcome in detector.predict(list(map(detector.prepare, images)))]
    )
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    assert all((nearest - own) % 2 == 0 for own, nearest in enumerate(similar.argmax(1)))


def test_looking_closely_says_the_same_and_all_of_an_image_is_embedded_as_it_is(
    training: TrainingResult,
) -> None:
    detector = training.detector
    inputs = [detector.prepare(stripes(seed, defect=seed % 2 == 1)) for seed in (100, 101)]
    for outcome, look in zip(detector.predict(inputs), detector.predict_with_patches(inputs), strict=True):
        assert look.prediction.score == pytest.approx(outcome.score, rel=1e-4)
        np.testing.assert_allclose(look.prediction.embedding, outcome.embedding, atol=1e-4)
        whole = describe_region(look, np.ones((64, 64), bool), threshold=1.0)
        np.testing.assert_allclose(whole.embedding, outcome.embedding, atol=1e-3)


def test_a_part_finds_where_another_image_has_the_same(training: TrainingResult) -> None:
    detector = training.detector
    calibration = Calibration.of(training.held_out_scores.scores, training.held_out_scores.map_maxima, 0.05)
    bad, other = detector.predict_with_patches(
        [detector.prepare(stripes(seed, defect=True)) for seed in (101, 103)]
    )
    sought = describe_region(
        bad, region_mask((64, 64), Region(20, 20, 24, 24)), calibration.pixel_threshold
    )
    found = locate_region(other, (64, 64), sought, calibration.pixel_threshold)
    assert found.similarity > 0.5
    assert 16 <= found.box.left + found.box.width / 2 <= 44
    assert 16 <= found.box.top + found.box.height / 2 <= 44


def test_features_of_good_images_vary_alike_all_around(training: TrainingResult) -> None:
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


def test_what_is_held_out_has_no_part_in_what_is_learned(training: TrainingResult) -> None:
    reads: list[ReadImage] = [partial(stripes, number) for number in range(24)]
    reads[training.held_out_indices[0]] = partial(stripes, 7, defect=True)
    other = trained(24, reads=reads)
    for name in ("feature_whitening", "feature_shift", "whitening", "memory_bank", "usual_distances"):
        assert torch.equal(training.detector.tensors()[name], other.detector.tensors()[name])


def test_nor_has_it_where_each_is_held_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[list[int]] = []
    fit = Whitening.fit

    def noted(
        features: torch.Tensor, changes: Sequence[PatchChanges], without: Sequence[int] = ()
    ) -> Whitening:
        fitted.append([int(number) for number in without])
        assert all(len(each.anomalous) and len(each.harmless) for each in changes)
        return fit(features, changes, without)

    monkeypatch.setattr(Whitening, "fit", noted)
    trained(6)
    *folds, last = fitted
    assert last == []  # the detector that is kept learns from all
    assert sorted(itertools.chain(*folds)) == list(range(6))
    features = torch.randn(6, 40, 8)
    changes = [PatchChanges(torch.randn(5, 8), torch.randn(7, 8)) for _ in range(6)]
    others = [1, 2, 4, 5]
    torch.testing.assert_close(
        fit(features, changes, [0, 3]).matrix,
        fit(features[others], [changes[number] for number in others]).matrix,
    )


@pytest.mark.parametrize("count", [3, 100])
def test_of_few_images_each_is_altered_several_times_and_of_many_some(count: int) -> None:
    detector = TrainablePatchCore(SMALL)
    detector.load_pretrained(Path("nowhere"))
    reads = [partial(stripes, number) for number in range(count)]
    with torch.inference_mode():
        features = torch.cat([detector.features([detector.prepare(read())])[0] for read in reads])
        told: list[int] = []
        changes = measure_changes(detector, reads, features, 0, told.append)
        alone = measure_changes(detector, reads[:1] * count, features[:1].expand(count, -1, -1), 0)
    assert told[-1] == max(told) == 64
    assert len(changes) == count
    altered = [len(each.anomalous) for each in changes if len(each.anomalous)]
    disturbed = [len(each.harmless) for each in changes if len(each.harmless)]
    assert len(altered) == len(disturbed) == min(count, 64)
    assert 64 <= sum(altered) <= 64 * 16
    assert sum(disturbed) == 64 * 64
    for kind in ("anomalous", "harmless"):
        assert torch.cat([getattr(each, kind) for each in changes]).norm(dim=1).median() > 0.1
        # What becomes of an image does not depend on the others.
        torch.testing.assert_close(getattr(changes[0], kind), getattr(alone[0], kind))


def test_copies_of_one_image_say_nothing_of_how_good_ones_differ() -> None:
    with pytest.raises(FailedPrecondition, match="the 24 good images are identical"):
        trained(24, reads=[partial(stripes, 1)] * 24)


def test_a_noisier_camera_looks_less_like_a_defect_than_it_would(
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
        """Of the way from good to defective that noise takes good images."""
        plain, noisier, bad = (
            np.mean([each.score for each in detector.predict(list(map(detector.prepare, images)))])
            for images in (good, noisy, defects)
        )
        return float((noisier - plain) / (bad - plain))

    assert 0 <= share(training.detector) < 0.8 * share(unaware)


def test_a_whitened_detector_comes_back_as_it_was(training: TrainingResult) -> None:
    detector = training.detector
    back = TrainablePatchCore.load(detector.settings, detector.tensors())
    inputs = [detector.prepare(stripes(100)), detector.prepare(stripes(101, defect=True))]
    for before, after in zip(detector.predict(inputs), back.predict(inputs), strict=True):
        assert after.score == pytest.approx(before.score, rel=1e-6)


def test_a_version_from_before_whitening_scores_as_it_did() -> None:
    plain = trained(24, settings=replace(SMALL, whitened=False)).detector
    settings = {name: value for name, value in plain.settings.items() if name != "whitened"}
    tensors = plain.tensors()
    assert "feature_whitening" not in tensors
    back = TrainablePatchCore.load(settings, tensors)
    image = plain.prepare(stripes(101, defect=True))
    assert back.predict([image])[0].score == pytest.approx(plain.predict([image])[0].score, rel=1e-6)
    assert back.settings["whitened"] is False


def test_a_version_from_before_the_fine_stage_scores_as_it_did() -> None:
    coarse = trained(24, settings=replace(SMALL, fine=False)).detector
    settings = {name: value for name, value in coarse.settings.items() if name != "fine"}
    back = TrainablePatchCore.load(settings, coarse.tensors())
    image = coarse.prepare(stripes(101, defect=True))
    assert back.predict([image])[0].score == pytest.approx(coarse.predict([image])[0].score, rel=1e-6)
    assert back.settings["fine"] is False


def test_the_papers_is_of_two_stages_and_ours_of_three_unless_told() -> None:
    def dimensions(settings: PatchCoreSettings) -> int:
        detector = TrainablePatchCore(settings)
        patches, grid = detector.features([detector.prepare(stripes(0))])
        assert grid == (8, 8)
        return patches.shape[2]

    assert dimensions(replace(SMALL, whitened=False)) == 152
    assert dimensions(SMALL) == 152 + 2 * 24
    assert dimensions(replace(SMALL, fine=False)) == 152
    assert dimensions(replace(SMALL, whitened=False, fine=True)) == 152 + 2 * 24


def test_a_version_from_before_places_were_told_apart_scores_by_distance_alone(
    training: TrainingResult,
) -> None:
    detector = training.detector
    tensors = detector.tensors()
    usual = tensors.pop("usual_distances")
    before = TrainablePatchCore.load(detector.settings, tensors)
    even = TrainablePatchCore.load(detector.settings, tensors | {"usual_distances": torch.ones_like(usual)})
    image = detector.prepare(stripes(101, defect=True))
    scores = [each.predict([image])[0].score for each in (detector, before, even)]
    assert scores[1] == scores[2] != scores[0]


def test_an_image_is_measured_by_the_entries_of_the_others() -> None:
    detector = TrainablePatchCore(SMALL)
    features = torch.randn(3, 64, 200)
    features[:, :8] *= 3  # the first row of each lies far out
    detector.set_memory_bank(features.flatten(0, 1))
    owners = torch.arange(3).repeat_interleave(64)
    detector.measure_expected_distances(features, (8, 8), range(3), owners)
    distances = [
        torch.cdist(
            features[image], features[[other for other in range(3) if other != image]].flatten(0, 1)
        )
        for image in range(3)
    ]
    usual = detector.tensors()["usual_distances"]
    torch.testing.assert_close(
        usual, expected_distances(torch.stack([d.amin(1) for d in distances]), (8, 8))
    )
    assert usual[:8].min() > usual[16:].max()


def test_a_training_measures_each_image_by_the_others(training: TrainingResult) -> None:
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


def test_nothing_is_usual_where_one_image_has_all_entries() -> None:
    detector = trained(2).detector  # cross-calibrated by banks of one image
    assert detector.tensors()["usual_distances"].isfinite().all()
    assert isinstance(detector, TrainablePatchCore)
    detector.measure_expected_distances(
        torch.randn(1, 64, 200), (8, 8), [0], torch.zeros(len(detector.tensors()["memory_bank"]))
    )
    assert detector.tensors()["usual_distances"].equal(torch.ones(64))


def test_the_bank_holds_no_fewer_than_weigh_the_score() -> None:
    few = trained(4, settings=replace(SMALL, coreset_ratio=0.001)).detector.tensors()
    assert len(few["memory_bank"]) == SMALL.neighbors


def test_many_images_hold_some_out(training: TrainingResult) -> None:
    assert training.method == "held out"
    assert len(training.held_out_scores.scores) == 8  # 19 are wanted for 5 %, a third is the most
    assert training.learned == 16


def test_few_images_are_cross_calibrated() -> None:
    training = trained(4)
    assert training.method == "cross-calibration"
    assert len(training.held_out_scores.scores) == 4
    assert training.learned == 4


def test_the_same_seed_gives_the_same_detector(training: TrainingResult) -> None:
    again = trained(24)
    assert again.held_out_scores == training.held_out_scores
    assert again.detector.tensors()["memory_bank"].equal(training.detector.tensors()["memory_bank"])


@pytest.mark.parametrize("count", [6, 24])
def test_a_faster_runtime_gives_the_features_and_torch_has_the_network_again(count: int) -> None:
    asked: list[int] = []

    class Fast(TorchRuntime):
        name = "fast"

        def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
            asked.append(len(images))
            return super().__call__(images)

    def fast(network: nn.Module, input_size: int) -> Runtime:
        assert input_size == SMALL.input_size
        return Fast(network, torch.device("cpu"))

    quick, plain = trained(count, fast=fast), trained(count)
    assert sum(asked) == count + 2 * 64  # each image once, and copies
    assert quick.detector.runtime.name == "torch"
    assert (quick.facts["features by"], plain.facts["features by"]) == ("fast", "torch")
    assert quick.held_out_scores == plain.held_out_scores
    for name, tensor in plain.detector.tensors().items():
        assert torch.equal(tensor, quick.detector.tensors()[name]), name


def test_a_detector_comes_back_from_its_tensors(training: TrainingResult) -> None:
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


def test_the_index_is_part_of_the_tensors_and_is_built_without(indexed: TrainablePatchCore) -> None:
    tensors = indexed.tensors()
    assert {"index_centroids", "supports"} <= set(tensors)
    image = indexed.prepare(stripes(7, defect=True))
    (outcome,) = indexed.predict([image])
    for lost in ("nothing", "index_centroids", "supports"):
        kept = {name: tensor for name, tensor in tensors.items() if name != lost}
        (again,) = TrainablePatchCore.load(indexed.settings, kept).predict([image])
        assert again.score == outcome.score
        assert np.array_equal(again.anomaly_map, outcome.anomaly_map)


def test_a_frame_scores_the_same_whatever_its_batch(indexed: TrainablePatchCore) -> None:
    inputs = [indexed.prepare(stripes(seed, defect=seed % 2 == 1)) for seed in range(5)]
    with torch.inference_mode():
        features, grid = indexed.features(inputs)
        together = indexed.predict_from_features(features, grid)
        alone = [indexed.predict_from_features(one[None], grid)[0] for one in features]
    assert [o.score for o in together] == [o.score for o in alone]
    assert all(np.array_equal(a.anomaly_map, b.anomaly_map) for a, b in zip(together, alone, strict=True))


def test_progress_counts_to_the_end() -> None:
    told: dict[str, tuple[int, int]] = {}

    def progress(phase: str, done: int, total: int, unit: str) -> None:
        told[phase] = (done, total)

    trained(20, progress=progress)
    assert set(told) == {"features", "alterations", "coreset", "supports", "places", "calibration"}
    assert all(done == total for done, total in told.values())


def test_training_ends_when_progress_says_so() -> None:
    def progress(phase: str, done: int, total: int, unit: str) -> None:
        if phase == "coreset":
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        trained(4, progress=progress)


def test_a_runtime_that_was_lent_is_given_back_whatever_happens(training: TrainingResult) -> None:
    detector = training.detector
    own, lent = detector.runtime, TorchRuntime(detector.network, torch.device("cpu"))
    with pytest.raises(JobCancelled), running_on(detector, lent):
        assert detector.runtime is lent
        raise JobCancelled("enough")
    assert detector.runtime is own
    with running_on(detector, None):
        assert detector.runtime is own


def test_one_image_is_too_few() -> None:
    with pytest.raises(FailedPrecondition, match="at least 2 good images"):
        trained(1)


def test_features_over_the_cap_are_refused_with_the_numbers() -> None:
    with pytest.raises(TooLarge, match=r"need 13 MiB.*BLEMISH_MAX_FEATURE_BYTES allows 1 MiB"):
        trained(250, max_bytes=1 << 20)


def test_features_over_both_caps_are_refused_with_the_numbers(tmp_path: Path) -> None:
    with pytest.raises(
        TooLarge,
        match=r"need 13 MiB.*BLEMISH_MAX_FEATURE_BYTES allows 1 MiB.*BLEMISH_MAX_SCRATCH_BYTES 2 MiB",
    ):
        trained(250, max_bytes=1 << 20, scratch=tmp_path, max_scratch_bytes=2 << 20)


def test_a_memory_bank_over_the_cap_is_refused_whatever_the_disk_holds(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match=r"memory bank.*need 3 MiB.*coreset_ratio"):
        trained(250, max_bytes=1 << 20, scratch=tmp_path)


@pytest.mark.parametrize("images", [6, 24])
def test_features_beyond_memory_go_to_a_file_and_give_the_same_detector(
    images: int, tmp_path: Path
) -> None:
    in_memory = trained(images)
    needed = images * 64 * 200 * 4
    mapped = trained(images, max_bytes=needed // 2, scratch=tmp_path)
    assert mapped.held_out_scores == in_memory.held_out_scores
    assert mapped.detector.tensors()["memory_bank"].equal(in_memory.detector.tensors()["memory_bank"])
    assert list(tmp_path.iterdir()) == []


def test_features_lie_on_a_gpu_only_if_it_has_room_for_them_and_the_work(
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
def test_settings_out_of_range_are_refused(settings: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        PatchCoreSettings(**settings)  # type: ignore[arg-type]
    assert refusal.value.field == field
