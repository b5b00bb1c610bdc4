# SPDX-License-Identifier: Apache-2.0
"""The evaluation of a model version on the test images of a dataset."""

from functools import partial

from blemish_core.datasets import Dataset
from blemish_core.evaluation.evaluate import ImageSource
from blemish_core.evaluation.evaluate import evaluate as evaluate_detector
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers.detector_cache import DetectorCache
from blemish_core.jobs.handlers.story import describe_figures, describe_tests
from blemish_core.jobs.record import EvaluateSpec, Result, now
from blemish_core.jobs.reporter import StepReporter, WarningCollector
from blemish_core.models.bundle import Manifest
from blemish_core.models.good_images import read_good_images
from blemish_core.platform.errors import FailedPrecondition, NotFound
from blemish_core.platform.names import ModelRef, dataset_name
from blemish_core.report.conclusion import conclude
from blemish_core.report.write import EvaluationRun, Report, write


def evaluate(
    context: JobContext, detectors: DetectorCache, spec: EvaluateSpec, job: str, reporter: StepReporter
) -> Result:
    """Evaluate a model version on a dataset and store a report with the version.

    Raises:
        FailedPrecondition: if the dataset has no test images.
        Corrupt: if too many images cannot be read.
    """
    reporter = WarningCollector(reporter)
    manifest, detector = detectors.load(spec.model)
    calibration = context.models.calibrations(manifest, detector.runtime.name).newest().calibration
    learned = _learned(context, manifest)
    source = ImageSource(context.datasets, context.limits, spec.dataset, manifest.white_level, learned)
    tested = context.datasets.get(spec.dataset)
    reporter.note(f"evaluation of {manifest.name} on {dataset_name(spec.dataset)}")
    reporter.note(f"threshold: {calibration.threshold:.4g}")
    reporter.note(f"images: {describe_tests(tested)}")
    if (mismatch := _level_mismatch(manifest, tested)) is not None:
        reporter.warn(mismatch)
    evaluation = evaluate_detector(
        detector, calibration, source, context.device, reporter.progress, reporter.warn
    )
    if evaluation is None:
        raise FailedPrecondition(
            f"{dataset_name(spec.dataset)} has no test images, or only copies of training images and files "
            "that are good and defective at once; upload some"
        )
    page = Report(
        manifest.model_copy(update={"calibration": calibration}),
        evaluation,
        reporter.warnings,
        by=EvaluationRun(job, now()),
        mask=detector.mask,
    )
    found = conclude(page.manifest, evaluation.metrics, shift=evaluation.good_shift is not None)
    reporter.note(f"conclusion: {found.text}")
    reporter.progress("report", 0, 1, "report")
    for line in describe_figures(evaluation.metrics, calibration.threshold):
        reporter.note(line)
    version = ModelRef(manifest.model, manifest.version)
    context.models.add_evaluation(version, job, partial(write, page), reporter.commit)
    reporter.progress("report", 1, 1, "report")
    return Result(model_version=manifest.name, metrics=evaluation.metrics)


def _learned(context: JobContext, manifest: Manifest) -> frozenset[str]:
    """Return the SHA-256 of the images that a version was trained or calibrated on, in hex.

    For a version of an older blemish they are those that its dataset has now.
    """
    images = read_good_images(context.models.folder(manifest.model, manifest.version))
    if images is not None:
        return frozenset(image.sha256 for image in images)
    try:
        return frozenset(image.sha256 for image in context.datasets.images(manifest.dataset, "train"))
    except NotFound:
        return frozenset()


def _level_mismatch(manifest: Manifest, dataset: Dataset) -> str | None:
    """Return a warning if the model reads images of 16 bits by another white level than the dataset has."""
    level = manifest.white_level.level if manifest.white_level else None
    own = dataset.white_level.level
    if own is None or own == level:
        return None
    read = (
        f"by the white level {level} of {manifest.name}" if level else f"as {manifest.name} does, by 65535"
    )
    return (
        f"the images of {dataset_name(dataset.id)} have the white level {own}, but are read {read}, unless "
        "they state their own; train on a dataset of that white level"
    )
