# SPDX-License-Identifier: Apache-2.0
"""The training of a detector, up to a published version of its model."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

from blemish_core.calibration import Calibration
from blemish_core.datasets.reading import ImageReader
from blemish_core.detectors.base import (
    ReadImage,
    Runtime,
    TrainingContext,
    TrainingResult,
    running_on,
)
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.evaluation.evaluate import Evaluation, ImageSource
from blemish_core.evaluation.evaluate import evaluate as evaluate_detector
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers.alignment import describe_alignment
from blemish_core.jobs.handlers.export import faster_runtime
from blemish_core.jobs.handlers.feedback import load_good_images
from blemish_core.jobs.handlers.highest_scores import with_highest_scores
from blemish_core.jobs.handlers.publish import TrainedModel, TrainingSet, publish
from blemish_core.jobs.handlers.story import describe_figures, describe_trained, describe_training
from blemish_core.jobs.record import Result, TrainSpec
from blemish_core.jobs.reporter import StepReporter, WarningCollector
from blemish_core.jobs.training_mask import read_mask
from blemish_core.models.bundle import Manifest
from blemish_core.models.good_images import GoodImage
from blemish_core.models.promotion import describe, promote
from blemish_core.platform.errors import ConfirmationNeeded
from blemish_core.platform.names import ModelRef, job_name
from blemish_core.report.conclusion import conclude

_SAMPLED = 4
"""Images of which the depth is checked if the dataset has no record of it."""


def train(context: JobContext, spec: TrainSpec, job: str, reporter: StepReporter) -> Result:
    """Train, calibrate and evaluate a detector, and publish it as a version of its model.

    Raises:
        NotFound: if there is no such dataset.
        Corrupt: if too many images cannot be read.
        FailedPrecondition: if the images cannot be aligned to the reference of the mask.
        RuntimesDisagree: if the exported network does not reproduce torch's results.
    """
    if published := context.models.published_by(job, spec.model_id):
        # An earlier attempt died between publishing and reporting its success.
        return _result(context, spec, published, reporter)
    reporter = WarningCollector(reporter)
    images = load_training_images(context, spec, reporter)
    _note(reporter, describe_training(spec, images, context.device))
    trained = fit(context, spec, job, images, reporter)
    _note(reporter, describe_trained(trained))
    trained = with_highest_scores(context, trained, reporter)
    evaluation = evaluate_on_test_split(context, spec, trained, reporter)
    metrics = evaluation.metrics if evaluation else None
    _note(reporter, describe_figures(metrics, trained.calibration.threshold))
    manifest = publish(context, spec, job, trained, evaluation, reporter)
    found = conclude(
        manifest, metrics, shift=bool(evaluation and evaluation.good_shift), outstanding=trained.outstanding
    )
    reporter.note(f"conclusion: {found.text}")
    reporter.note(f"published as {manifest.name}")
    return _result(context, spec, manifest, reporter)


def _note(reporter: StepReporter, lines: Iterable[str]) -> None:
    for line in lines:
        reporter.note(line)


def load_training_images(context: JobContext, spec: TrainSpec, reporter: StepReporter) -> TrainingSet:
    """Return readers of the good images of the dataset, and of those labelled good in an index."""
    dataset = context.datasets.get(spec.dataset)
    images = context.datasets.images(spec.dataset, "train")
    level = dataset.white_level
    for text in (*dataset.warnings, *dataset.copies):
        reporter.warn(text)
    reader = ImageReader(context.datasets, context.limits, images, level)
    readable = reader.readable(partial(reporter.progress, "check"))
    if (warning := reader.warning()) is not None:
        reporter.warn(warning)
    if not dataset.warnings and (dark := reader.dark(readable[:_SAMPLED])):
        # Datasets of older servers have no record of the depth of their images.
        reporter.warn(
            f"{dark[0].shown} and perhaps others use at most a sixteenth of the range of their samples; if "
            f"white is lower, give it with `blemish dataset update {spec.dataset} --white-level`"
        )
    reads: list[ReadImage] = [partial(reader.read_strict, image) for image in readable]
    good = [GoodImage(path=image.path, original=image.original, sha256=image.sha256) for image in readable]
    for labelled, read in load_good_images(context, spec, level, reporter) if spec.false_alarms_of else ():
        good.append(labelled)
        reads.append(read)
    return TrainingSet(dataset, reads, good, reader.skipped, level)


def fit(
    context: JobContext, spec: TrainSpec, job: str, images: TrainingSet, reporter: StepReporter
) -> TrainedModel:
    """Train the detector and calibrate its threshold on images that it has not learned from."""
    algorithm = ALGORITHMS[spec.detector]
    mask = read_mask(spec, context.datasets, context.models, context.limits, images.white_level)
    reference = (spec.mask.reference if spec.mask else None) or ""
    alignment = describe_alignment(mask, images, reference, reporter)
    resources = TrainingContext(
        weights=context.weights,
        seed=spec.seed,
        target_false_reject_rate=spec.target_false_reject_rate,
        progress=reporter.progress,
        device=context.device,
        fast_runtime=partial(faster_runtime, context.device, context.runtime),
        max_feature_bytes=context.max_feature_bytes,
        checkpoint=context.checkpoints / job,
        photographs=context.photographs,
        warn=reporter.warn,
        announce=reporter.announce,
        mask=mask,
    )
    settings = algorithm.settings(**spec.settings)
    training = algorithm.train(settings, images.reads, resources)
    calibration = Calibration.of(
        training.held_out_scores.scores, training.held_out_scores.map_maxima, spec.target_false_reject_rate
    )
    if calibration.warranted_false_reject_rate > spec.target_false_reject_rate:
        reporter.warn(
            f"{len(calibration.scores)} held-out good images only support a false-reject rate of "
            f"{calibration.warranted_false_reject_rate:.1%}, not the requested "
            f"{spec.target_false_reject_rate:.1%}; upload more good images"
        )
    good = _with_scores(images.good, training)

    def retrain(runtime: Runtime) -> TrainingResult:
        return algorithm.train(settings, images.reads, _for_int8(resources, runtime))

    return TrainedModel(images, training, calibration, alignment, good, retrain=retrain)


def _for_int8(resources: TrainingContext, runtime: Runtime) -> TrainingContext:
    """Return the resources of a training that is repeated on ``runtime``, without its announcements."""
    progress = resources.progress

    def report(phase: str, done: int, total: int, unit: str) -> None:
        progress(f"int8 {phase}", done, total, unit)

    return replace(
        resources,
        device="cpu",
        progress=report,
        fast_runtime=lambda network, input_size: runtime,
        warn=lambda text: None,
        announce=lambda plan: None,
    )


def _with_scores(images: Sequence[GoodImage], training: TrainingResult) -> list[GoodImage]:
    """Return the images of a training, with the scores of held-out ones."""
    scored = dict(zip(training.scored_indices, training.held_out_scores.scores, strict=True))
    return [
        image.model_copy(update={"held_out": True, "score": scored[number]}) if number in scored else image
        for number, image in enumerate(images)
    ]


def evaluate_on_test_split(
    context: JobContext, spec: TrainSpec, trained: TrainedModel, reporter: StepReporter
) -> Evaluation | None:
    """Evaluate the trained detector on the dataset's test images; return None if there are none."""
    detector = trained.training.detector
    level = trained.images.white_level
    learned = frozenset(image.sha256 for image in trained.good)
    source = ImageSource(context.datasets, context.limits, spec.dataset, level, learned)
    runtime = faster_runtime(context.device, context.runtime, detector.network, detector.network_size)
    with running_on(detector, runtime):
        return evaluate_detector(
            detector, trained.calibration, source, context.device, reporter.progress, reporter.warn
        )


def _result(context: JobContext, spec: TrainSpec, manifest: Manifest, reporter: StepReporter) -> Result:
    if spec.promote:
        version = ModelRef(spec.model_id, manifest.version)
        try:
            promote(context.models, version, spec.promoted_calibration, job_name(manifest.job))
            judging = describe(context.models.calibrations(manifest).newest())
            reporter.note(f"{manifest.name} is in production and judges by {judging}")
        except ConfirmationNeeded as refusal:
            # A job can ask no one, and must not lose what a person has set.
            reporter.warn(f"{manifest.name} was not promoted: {refusal} with `blemish models promote`")
    return Result(model_version=manifest.name, metrics=manifest.metrics)
