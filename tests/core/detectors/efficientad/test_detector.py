# SPDX-License-Identifier: Apache-2.0
"""EfficientAD with a teacher of random weights."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.support.imports import SLOW_WITH_ANOMALIB, imported_by
from tests.support.narrow import narrow
from torch import Tensor
from torch.nn import functional

from blemish_core.detectors.base import Detector, Image, Progress, TrainingContext, TrainingResult, silent
from blemish_core.detectors.common.regions import describe_region
from blemish_core.detectors.efficientad import teacher
from blemish_core.detectors.efficientad.settings import CHANNELS, EfficientAdSettings
from blemish_core.detectors.efficientad.teacher import network
from blemish_core.detectors.efficientad.training import start
from blemish_core.detectors.efficientad.training.losses import losses_of_step, teacher_features_of
from blemish_core.detectors.efficientad.training.photographs import photographs
from blemish_core.detectors.efficientad.training.start import PENALTY, LeastSquares, last_layer
from blemish_core.detectors.efficientad.training.train import train
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.imaging.image_input import Region
from blemish_core.platform.errors import FailedPrecondition, InvalidRequest, JobCancelled
from blemish_core.runtimes import parity

# Two steps, so that one can come before an interruption and one after.
STEPS = EfficientAdSettings(max_steps=2, start="random")


def surface(seed: int) -> Image:
    random = np.random.default_rng(seed)
    return random.integers(90, 140, (256, 256, 3), dtype=np.uint8)


def tiled(seed: int) -> Image:
    """Return a surface with structure to learn, other than noise."""
    colours = np.random.default_rng(seed).integers(40, 210, (8, 8, 3), dtype=np.uint8)
    return colours.repeat(32, axis=0).repeat(32, axis=1)


class Rounded:
    """A runtime with the outputs of a detector's own runtime, rounded differently."""

    name = "rounded"
    bytes = 0

    def __init__(self, detector: Detector, outputs: int | None = None) -> None:
        """Return the first ``outputs`` outputs of the detector's runtime, all by default."""
        self._own = detector.runtime
        self._outputs = outputs
        self._random = torch.Generator().manual_seed(0)

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        def rounded(output: Tensor) -> Tensor:
            return output * (1 + 1e-6 * torch.randn(output.shape, generator=self._random))

        return tuple(rounded(output) for output in self._own(images)[: self._outputs])


def learn(
    folder: Path,
    settings: EfficientAdSettings = STEPS,
    *,
    images: Sequence[int] = range(4),
    drawn: Callable[[int], Image] = surface,
    progress: Progress = silent,
    checkpoint: Path | None = None,
    mask: FrameMask | None = None,
    now: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    if not (folder / "efficientad-small.safetensors").exists():
        torch.manual_seed(7)
        save_file(network("small").state_dict(), folder / "efficientad-small.safetensors")
    readers: list[Callable[[], Image]] = [partial(drawn, number) for number in images]
    context = TrainingContext(folder, 3, 0.05, progress, checkpoint=checkpoint, mask=mask)
    return train(settings, readers, context, now)


@pytest.fixture(scope="module", autouse=True)
def narrow_networks() -> Iterator[None]:
    from blemish_core.detectors.common.anomalib_models import SmallPatchDescriptionNetwork

    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow(monkeypatch, SmallPatchDescriptionNetwork)
        yield


@pytest.fixture(scope="module")
def training(narrow_networks: None, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return learn(tmp_path_factory.mktemp("weights"))


def test_prediction_has_score_map_and_embedding(training: TrainingResult) -> None:
    detector = training.detector
    (prediction,) = detector.predict([detector.prepare(surface(9))])
    assert prediction.anomaly_map.shape == (256, 256)
    assert prediction.score == pytest.approx(prediction.anomaly_map.max())
    assert prediction.embedding.shape == (CHANNELS + 1,)
    assert np.linalg.norm(prediction.embedding) == pytest.approx(1, abs=1e-5)
    assert (training.learned, len(training.held_out_scores.scores)) == (3, 1)


@pytest.mark.parametrize("outputs", [3, 2], ids=["with", "without"])
def test_patches_are_predicted_with_and_without_teacher_output(
    training: TrainingResult, outputs: int
) -> None:
    detector = TrainableEfficientAd.load(training.detector.settings, training.detector.tensors())
    inputs = [detector.prepare(surface(seed)) for seed in (9, 10)]
    before = detector.predict(inputs)
    held = detector.bytes
    detector.run_on(Rounded(training.detector, outputs))
    detector.release_weights()
    assert detector.bytes < held
    with pytest.raises(RuntimeError, match="were released"):
        detector.network  # noqa: B018
    for prediction, patches in zip(before, detector.predict_with_patches(inputs), strict=True):
        rows, columns, _ = patches.deviations.shape
        assert (rows, columns) == patches.anomaly.shape == (56, 56)
        whole = describe_region(patches, np.ones((256, 256), bool), threshold=1.0)
        np.testing.assert_allclose(whole.embedding, prediction.embedding, atol=5e-3)


def test_detector_on_another_runtime_does_not_import_torch_networks(
    training: TrainingResult, tmp_path: Path
) -> None:
    save_file(training.detector.tensors(), tmp_path / "weights.safetensors")
    script = (
        "import numpy, torch; from safetensors.torch import load_file\n"
        "from blemish_core.detectors.efficientad.detector import EfficientAd\n"
        "class Runtime:\n"
        "    name, bytes = 'another', 0\n"
        "    def __call__(self, images):\n"
        "        return torch.rand(len(images), 1, 256, 256), torch.rand(len(images), 384)\n"
        f"tensors = load_file({str(tmp_path / 'weights.safetensors')!r})\n"
        "detector = EfficientAd.load({}, tensors)\n"
        "detector.run_on(Runtime())\n"
        "detector.release_weights()\n"
        "detector.predict_with_patches([detector.prepare(numpy.zeros((60, 80, 3), 'u1'))])"
    )
    assert SLOW_WITH_ANOMALIB & imported_by(script) == set()


def test_loaded_detector_gives_the_same_predictions(training: TrainingResult) -> None:
    detector = training.detector
    again = TrainableEfficientAd.load(detector.settings, detector.tensors())
    inputs = [detector.prepare(surface(seed)) for seed in (20, 21)]
    for before, after in zip(detector.predict(inputs), again.predict(inputs), strict=True):
        assert before.score == pytest.approx(after.score, rel=1e-5)
        np.testing.assert_allclose(before.anomaly_map, after.anomaly_map, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(before.embedding, after.embedding, atol=1e-5)


def test_rounding_does_not_turn_embeddings_of_training_images(tmp_path: Path) -> None:
    images = range(3)  # one is held out
    detector = learn(tmp_path, replace(STEPS, max_steps=1), images=images).detector
    golden = [detector.prepare(surface(number)) for number in images]
    parity.check(parity.compare(detector, Rounded(detector), golden, tolerance=parity.TOLERANCE), "rounded")


def test_training_steps_reduce_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[tuple[str, int, int]] = []
    # A high rate, because the steps are few.
    monkeypatch.setattr("blemish_core.detectors.efficientad.training.loop._LEARNING_RATE", 3e-3)
    losses = []
    for steps_taken in (1, 12):
        detector = learn(
            tmp_path,
            replace(STEPS, max_steps=steps_taken),
            drawn=tiled,
            progress=lambda phase, done, total, unit: reported.append((phase, done, total)),
        ).detector
        assert isinstance(detector, TrainableEfficientAd)
        image = detector.prepare(tiled(0))[None]
        with torch.inference_mode():
            taught = teacher_features_of(detector.model, image)
            each = losses_of_step(detector.model, image, taught, torch.zeros_like(image), image)
            losses.append(float(torch.stack(each).sum()))
    assert losses[1] < 0.9 * losses[0]
    steps = [(done, total) for phase, done, total in reported if phase == "training"]
    assert (0, 12) in steps
    assert steps[-1] == (12, 12)


def test_time_limit_ends_training_before_the_steps(tmp_path: Path) -> None:
    reported: list[int] = []

    def note(phase: str, done: int, total: int, unit: str) -> None:
        if phase == "training":
            reported.append(done)

    looks = count()  # each look at the clock takes a second
    settings = EfficientAdSettings(max_seconds=20.0, start="random")
    learn(tmp_path, settings, progress=note, now=lambda: float(next(looks)))
    assert 1 <= reported[-1] < 20


def test_solved_start_separates_the_surface_from_photographs(tmp_path: Path) -> None:
    settings = EfficientAdSettings(max_steps=1)
    training = learn(tmp_path, settings)
    assert training.facts["start"] == "last layer solved for"
    detector = training.detector
    assert isinstance(detector, TrainableEfficientAd)
    others, _ = photographs(None, tmp_path / "nowhere")
    views = [others.view(256, np.random.default_rng(n), grey_share=0.0)[None] for n in range(3)]
    unseen = [detector.prepare(surface(n))[None] for n in (50, 51)]
    with torch.inference_mode():
        good = max(float(detector.raw_maps(image)[0].mean()) for image in unseen)
        other = min(float(detector.raw_maps(view)[0].mean()) for view in views)
    assert other > 2 * good


def test_solved_model_has_no_autoencoder_and_loads_again(tmp_path: Path) -> None:
    detector = learn(tmp_path, EfficientAdSettings(max_steps=1)).detector
    tensors = detector.tensors()
    assert not [name for name in tensors if name.startswith("model.ae.")]
    assert tensors["model.student.conv4.weight"].shape[0] == CHANNELS
    again = TrainableEfficientAd.load(detector.settings, tensors)
    image = detector.prepare(surface(20))
    (before,), (after,) = detector.predict([image]), again.predict([image])
    assert before.score == pytest.approx(after.score, rel=1e-5)
    np.testing.assert_allclose(before.anomaly_map, after.anomaly_map, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 1e3], ids=["unchanged", "diverged"])
def test_solved_start_is_published_if_steps_do_not_improve_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float
) -> None:
    loop = "blemish_core.detectors.efficientad.training.loop"
    monkeypatch.setattr(f"{loop}._LEARNING_RATE", rate)
    settings = EfficientAdSettings(max_steps=2)
    training = learn(tmp_path, settings)
    assert training.facts["ended by"] == "no progress beyond the start, which is published"
    monkeypatch.setattr(f"{loop}._LEARNING_RATE", 0.0)
    unchanged = learn(tmp_path, settings).detector.tensors()
    for name, tensor in training.detector.tensors().items():
        torch.testing.assert_close(tensor, unchanged[name])


def test_steps_from_the_solved_start_reduce_the_held_out_loss(tmp_path: Path) -> None:
    facts = learn(tmp_path, EfficientAdSettings(max_steps=30), drawn=tiled).facts
    begun, ended = (float(text.split()[0]) for text in facts["held-out loss"].split(", "))
    assert (facts["steps"], facts["ended by"]) == ("30", "steps")
    assert ended < 0.98 * begun


def test_training_learns_from_as_many_images_as_its_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blemish_core.detectors.efficientad.training.plan._FEWEST_IMAGES", 2)
    warnings: list[str] = []
    seconds = count(step=1)  # each look at the clock takes a second
    readers: list[Callable[[], Image]] = [partial(surface, number) for number in range(8)]
    save_file(network("small").state_dict(), tmp_path / "efficientad-small.safetensors")
    announced: list[str] = []
    context = TrainingContext(tmp_path, 3, 0.05, silent, warn=warnings.append, announce=announced.append)
    training = train(EfficientAdSettings(max_seconds=23.0), readers, context, lambda: float(next(seconds)))
    assert training.learned == 3
    assert "23 s suffice to learn from 3 of 6 training images" in warnings[0]
    assert "from 3 images, each of which takes the teacher 1.00 s" in announced[0]


def test_last_layer_is_the_least_squares_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with a solution over all positions at once: targets on good images, zero on others."""
    monkeypatch.setattr(start, "_BLOCK", 7)
    torch.manual_seed(3)
    model = TrainableEfficientAd(EfficientAdSettings()).model.eval()
    layer = last_layer(model.student)
    assert layer.bias is not None
    fields: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: fields.append(given[0]))
    images = torch.rand(4, 1, 3, 256, 256)
    squares = LeastSquares(model, 2, np.random.default_rng(0))
    with torch.inference_mode():
        wanted = torch.randn(2, *model.student(images[0]).shape)
        for image in images[1:]:
            model.student(image)
        hook.remove()
        weights = dict(model.student.named_parameters())
        for image, answer in zip(images[:2], wanted, strict=True):
            squares.add_good(teacher.lower_layers(weights, image), answer)
        for image in images[2:]:
            squares.add_other(teacher.lower_layers(weights, image))
        squares.solve()
        good, other = (
            functional.pad(functional.unfold(torch.cat(two), layer.kernel_size), (0, 0, 0, 1), value=1.0)
            .double()
            .transpose(1, 2)
            .flatten(0, 1)
            for two in (fields[:2], fields[2:])
        )
        normal = good.T @ good / len(good) + PENALTY * other.T @ other / len(other)
        normal += 1e-3 * good.square().mean(0).mean() * torch.eye(len(normal))
        answers = wanted.double().flatten(3).transpose(2, 3).flatten(0, 2)
        best = torch.linalg.solve(normal, good.T @ answers / len(good))
        solved = torch.cat([layer.weight.flatten(1).T, layer.bias[None]])
    assert len(normal) > 3 * 7, "several blocks"
    torch.testing.assert_close(solved.double(), best, rtol=1e-3, atol=1e-3 * float(best.abs().max()))


class _Killed(Exception):
    """The end of a killed attempt."""


def test_resumed_training_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blemish_core.detectors.efficientad.training.loop._SAVE_EVERY_S", 0.0)
    settings = replace(STEPS, start="solved")  # it has the steps of a random start, and more before them
    whole = learn(tmp_path, settings)

    def die(phase: str, done: int, total: int, unit: str) -> None:
        if (phase, done) == ("training", 1):
            raise _Killed

    steps: list[int] = []

    def note(phase: str, done: int, total: int, unit: str) -> None:
        if phase == "training":
            steps.append(done)

    kept = tmp_path / "checkpoint"
    with pytest.raises(_Killed):
        learn(tmp_path, settings, progress=die, checkpoint=kept)
    resumed = learn(tmp_path, settings, progress=note, checkpoint=kept)
    assert steps == [1, 2, 2]
    for name, tensor in whole.detector.tensors().items():
        torch.testing.assert_close(tensor, resumed.detector.tensors()[name], rtol=1e-4, atol=1e-5)


def test_damaged_checkpoint_is_ignored(tmp_path: Path) -> None:
    kept = tmp_path / "checkpoint"
    kept.mkdir()
    (kept / "state.safetensors").write_bytes(b"half a file")
    assert learn(tmp_path, replace(STEPS, max_steps=1), checkpoint=kept).learned == 3


def test_cancelled_training_ends_at_the_next_step(tmp_path: Path) -> None:
    def stop(phase: str, done: int, total: int, unit: str) -> None:
        if (phase, done) == ("training", 1):
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled):
        learn(tmp_path, progress=stop)


def test_too_few_images_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="at least 3 good images"):
        learn(tmp_path, images=range(2))


def test_missing_teacher_error_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="blemish weights fetch efficientad"):
        teacher.find("medium", tmp_path)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"size": "large"}, "size"),
        ({"input_size": 224}, "input_size"),
        ({"input_size": 300}, "input_size"),
        ({"input_size": 2048}, "input_size"),
        ({"max_steps": -1}, "max_steps"),
        ({"start": "anywhere"}, "start"),
        ({"max_seconds": -1.0}, "max_duration"),
        ({"max_seconds": float("nan")}, "max_duration"),
    ],
)
def test_settings_out_of_range_are_rejected(settings: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        EfficientAdSettings(**settings)  # type: ignore[arg-type]
    assert refusal.value.field == f"efficientad.{field}"


def right_half() -> FrameMask:
    looks = np.ones((256, 256), np.bool_)
    looks[:, :128] = False
    return FrameMask(looks)


def with_other_left(seed: int, *, of: int = 1000) -> Image:
    """Return the surface with the left half of another one, much brighter."""
    image = surface(seed)
    image[:, :120] = surface(seed + of)[:, :120] + 100
    return image


def test_ignored_pixels_influence_neither_training_nor_prediction(
    training: TrainingResult, tmp_path: Path
) -> None:
    plain = learn(tmp_path, mask=right_half())
    other = learn(tmp_path, drawn=with_other_left, mask=right_half())
    assert plain.held_out_scores == other.held_out_scores
    for name, tensor in plain.detector.tensors().items():
        assert torch.equal(tensor, other.detector.tensors()[name]), name
    detector = plain.detector
    first, second = detector.predict([detector.prepare(surface(9)), detector.prepare(with_other_left(9))])
    assert first.score == second.score
    np.testing.assert_array_equal(first.anomaly_map, second.anomaly_map)
    np.testing.assert_array_equal(first.embedding, second.embedding)
    assert (first.anomaly_map[:, :128] == first.anomaly_map[:, 128:].min()).all()
    assert first.score == pytest.approx(first.anomaly_map[:, 128:].max())
    # The statistics of the images come from the looked half alone.
    unmasked = training.detector.tensors()
    assert not torch.equal(plain.detector.tensors()["center"], unmasked["center"])


def test_patches_that_a_mask_ignores_are_similar_to_nothing(
    training: TrainingResult,
) -> None:
    detector = TrainableEfficientAd.load(training.detector.settings, training.detector.tensors())
    detector.mask = right_half()
    (patches,) = detector.predict_with_patches([detector.prepare(surface(9))])
    length = np.linalg.norm(patches.deviations, axis=2)
    assert (length[:, :28] == 0).all()
    assert (length[:, 28:] > 0).all()
    ignored = np.zeros((256, 256), bool)
    ignored[60:90, 60:90] = True
    with pytest.raises(InvalidRequest, match="ignores the whole region"):
        describe_region(patches, ignored, threshold=1.0)


def test_region_is_masked_like_the_frame(training: TrainingResult) -> None:
    detector = TrainableEfficientAd.load(training.detector.settings, training.detector.tensors())
    detector.mask = right_half()
    region = Region(64, 0, 128, 256)
    first, second = (
        detector.predict([detector.prepare(image, region)])[0] for image in (surface(9), with_other_left(9))
    )
    assert first.score == second.score
    assert (first.anomaly_map[:, :128] == first.anomaly_map.min()).all()
    with pytest.raises(InvalidRequest, match="ignores the whole region"):
        detector.prepare(surface(9), Region(0, 0, 64, 64))
