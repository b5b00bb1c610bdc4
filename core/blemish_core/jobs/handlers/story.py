# SPDX-License-Identifier: Apache-2.0
"""Lines of a job's log about its images, settings and figures."""

from collections.abc import Iterator

from blemish_core.calibration import Calibration
from blemish_core.datasets import Dataset
from blemish_core.detectors.base import TrainingResult
from blemish_core.detectors.common.copies import describe_copies
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.evaluation.metrics import Metrics
from blemish_core.jobs.handlers.publish import TrainedModel, TrainingSet
from blemish_core.jobs.record import TrainSpec
from blemish_core.platform.names import dataset_name
from blemish_core.report.formats import interval, metric, percent, score

_FIGURES = (
    ("good images rejected", "false_reject_rate"),
    ("defective images detected", "detection_rate"),
    ("image AUROC", "image_auroc"),
    ("pixel AUROC", "pixel_auroc"),
)


def describe_training(spec: TrainSpec, images: TrainingSet, device: str) -> Iterator[str]:
    """Yield lines about the images and settings of a training before it begins."""
    yield f"training of {spec.model_id} by {ALGORITHMS[spec.detector].title} on {device}"
    dataset = images.dataset
    yield f"dataset: {dataset_name(dataset.id)}, snapshot {dataset.snapshot[:12]}"
    skipped = f", {images.skipped} skipped" if images.skipped else ""
    labelled = sum(image.path.startswith("items/") for image in images.good)
    more = f", of which {labelled} were labelled good in an index" if labelled else ""
    yield f"images: {len(images.good)} good ones to train on{more}{skipped}; {describe_tests(dataset)}"
    chosen = [f"{name} {value}" for name, value in sorted(spec.settings.items())]
    mask = "a mask" if spec.mask is not None else "no mask"
    chosen += [
        mask,
        f"seed {spec.seed}",
        f"{percent(spec.target_false_reject_rate)} false rejects asked for",
    ]
    yield f"settings: {', '.join(chosen)}"


def describe_tests(dataset: Dataset) -> str:
    """Return the numbers of test images by class."""
    if not dataset.test_images:
        return "no test images"
    classes = ", ".join(f"{count} {name}" for name, count in dataset.test_images.items())
    return f"{sum(dataset.test_images.values())} test images: {classes}"


def describe_trained(trained: TrainedModel) -> Iterator[str]:
    """Yield lines about what a training found out, and its threshold."""
    training: TrainingResult = trained.training
    if training.copies:
        yield f"copies: {describe_copies(training.copies, trained.images.names)}"
    if trained.alignment:
        yield f"alignment: {trained.alignment}"
    yield f"facts: {', '.join(f'{name} {value}' for name, value in training.facts.items())}"
    calibration: Calibration = trained.calibration
    low, high = calibration.false_reject_rate_interval
    yield (
        f"threshold: {score(calibration.threshold)}, from {len(calibration.scores)} images, "
        f"{training.method}; {percent(calibration.warranted_false_reject_rate)} false rejects expected "
        f"(90 % interval {percent(low)} to {percent(high)})"
    )


def describe_figures(metrics: Metrics | None, threshold: float) -> Iterator[str]:
    """Yield lines about the figures on test images, with their intervals."""
    if metrics is None:
        yield "figures: none, because the dataset has no test images"
        return
    yield (
        f"figures at the threshold {score(threshold)}, on {metrics.good_images} good and "
        f"{metrics.defective_images} defective images, with 95 % intervals:"
    )
    for title, name in _FIGURES:
        value: float | None = getattr(metrics, name)
        if value is not None:
            within = interval(metrics.intervals.get(name), name)
            yield f"  {title}: {metric(value, name)}{f' ({within})' if within else ''}"
    for name, of in metrics.classes.items():
        yield f"  {name}: {metric(of.detection_rate, 'detection_rate')} of {of.images} detected"
