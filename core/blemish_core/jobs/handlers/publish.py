# SPDX-License-Identifier: Apache-2.0
"""The publication of a trained detector as a version of its model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from blemish_core.calibration import Calibration
from blemish_core.datasets import Dataset
from blemish_core.datasets.reading import ImageReader
from blemish_core.detectors.base import ReadImage, TrainingResult
from blemish_core.detectors.common.copies import describe_copies
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.evaluation.evaluate import Evaluation, ExampleImage
from blemish_core.evaluation.metrics import GOOD
from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers.export import (
    ImageSplits,
    Retrain,
    export_int8,
    export_openvino,
    export_retrained_int8,
)
from blemish_core.jobs.handlers.frame_latency import measure_latencies
from blemish_core.jobs.record import TrainSpec, now
from blemish_core.jobs.reporter import WarningCollector
from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest
from blemish_core.models.good_images import GoodImage, write_good_images
from blemish_core.models.loading import write_weights
from blemish_core.models.suspects import find_suspects
from blemish_core.report.write import Report, write
from blemish_core.runtimes.card import FrameLatency, RuntimeCard
from blemish_core.runtimes.choice import INT8, OPENVINO, TORCH

_LISTED = 10
"""Number of good images with the highest scores that a report lists."""


@dataclass(frozen=True)
class TrainingSet:
    """The images that a detector is trained on."""

    dataset: Dataset
    """Record of the dataset before its images were read."""
    reads: Sequence[ReadImage]
    good: Sequence[GoodImage]
    """Image of each of ``reads``, without a score."""
    skipped: int
    """Number of images that cannot be read."""
    white_level: WhiteLevel | None = None
    """White level by which the images are decoded."""

    @property
    def names(self) -> list[str]:
        """Name of each image for people."""
        return [image.shown for image in self.good]


@dataclass(frozen=True)
class TrainedModel:
    """A trained and calibrated detector."""

    images: TrainingSet
    training: TrainingResult
    calibration: Calibration
    alignment: str = ""
    """Motion of the part in the training images; empty if the mask does not move."""
    good: Sequence[GoodImage] = ()
    """Images of the training with their scores."""
    held_out_examples: Sequence[ExampleImage] = ()
    """Held-out images with the highest scores."""
    learned_examples: Sequence[ExampleImage] = ()
    """Learned images with the highest scores; empty after cross-calibration."""
    outstanding: bool = False
    """True if few held-out images raise the threshold above that of all others."""
    retrain: Retrain | None = None
    """Training with the same settings, images and seed on another runtime."""


def publish(
    context: JobContext,
    spec: TrainSpec,
    job: str,
    trained: TrainedModel,
    evaluation: Evaluation | None,
    reporter: WarningCollector,
) -> Manifest:
    """Write the bundle of a trained detector and publish it as the next version of its model.

    Raises:
        RuntimesDisagree: if the exported network does not reproduce torch's results.
        JobCancelled: if the job was cancelled before the version was published.
    """
    writer = _BundleWriter(context, spec, job, trained, evaluation, reporter)
    manifest = context.models.publish(spec.model_id, job, writer.write, reporter.commit)
    reporter.progress("publish", 1, 1, "bundle")
    return manifest


@dataclass(frozen=True)
class _BundleWriter:
    context: JobContext
    spec: TrainSpec
    job: str
    trained: TrainedModel
    evaluation: Evaluation | None
    reporter: WarningCollector
    runtimes: dict[str, RuntimeCard] = field(default_factory=dict)
    """Exported runtimes; the folder keeps their files if the bundle is written again."""
    latencies: list[FrameLatency] = field(default_factory=list)
    """Measured time of a frame by each runtime."""

    def write(self, folder: Path, number: int) -> None:
        """Write the bundle of version ``number``; called again if another job takes the number."""
        if not self.runtimes and self.context.runtime.name != TORCH:
            self._export_runtimes(folder)
        self._keep_alive()
        if not self.latencies:
            self._measure_latencies(folder)
        sha256, size = write_weights(self.trained.training.detector, folder)
        mask = self.trained.training.detector.mask
        if mask is not None:
            (folder / bundle.MASK).write_bytes(mask.to_png())
            sha256[bundle.MASK] = bundle.sha256(folder / bundle.MASK)
            if (reference := mask.reference_png()) is not None:
                (folder / bundle.REFERENCE).write_bytes(reference)
                sha256[bundle.REFERENCE] = bundle.sha256(folder / bundle.REFERENCE)
        if (folder / bundle.OPENVINO).exists():
            sha256 |= bundle.sha256_below(folder, bundle.OPENVINO)
            size += sum(file.stat().st_size for file in (folder / bundle.OPENVINO).iterdir())
        manifest = self._manifest(number, sha256, size)
        page = Report(
            manifest,
            self.evaluation,
            self.reporter.warnings,
            mask=mask,
            good=find_suspects(self.trained.good, self.trained.calibration, _LISTED),
            held_out=self.trained.held_out_examples,
            learned=self.trained.learned_examples,
            outstanding=self.trained.outstanding,
        )
        write(page, folder / bundle.REPORT)
        write_good_images(self.trained.good, folder)
        sha256 |= bundle.sha256_below(folder, bundle.REPORT)
        bundle.write_manifest(manifest.model_copy(update={"sha256": sha256}), folder)

    def _manifest(self, number: int, sha256: dict[str, str], size_bytes: int) -> Manifest:
        images, training, calibration = self.trained.images, self.trained.training, self.trained.calibration
        return Manifest(
            format=bundle.format_of(self.runtimes),
            model=self.spec.model_id,
            version=number,
            detector=training.detector.name,
            settings=training.detector.settings,
            input_size=training.detector.input_size,
            category=images.dataset.category,
            dataset=self.spec.dataset,
            dataset_snapshot=images.dataset.snapshot,
            created=now(),
            job=self.job,
            seed=self.spec.seed,
            split=bundle.TrainingSplit(
                learned=training.learned,
                held_out=len(calibration.scores),
                method=training.method,
                skipped=images.skipped,
            ),
            white_level=images.white_level,
            mask=self._mask(),
            training={**training.facts, **self._findings()},
            calibration=calibration,
            metrics=self.evaluation.metrics if self.evaluation else None,
            runtimes=self.runtimes,
            latencies=tuple(self.latencies),
            libraries=bundle.libraries(),
            sha256=sha256,
            size_bytes=size_bytes,
        )

    def _mask(self) -> MaskSummary | None:
        mask, requested = self.trained.training.detector.mask, self.spec.mask
        if mask is None or requested is None:
            return None
        return mask.summary().model_copy(update={"reference": requested.reference})

    def _findings(self) -> dict[str, str]:
        """Return what the training found out about the images, for the model's card."""
        copies = self.trained.training.copies
        shift = self.evaluation.good_shift if self.evaluation else None
        found = {"copies": describe_copies(copies, self.trained.images.names)} if copies else {}
        if self.trained.images.dataset.copies:
            found["equal files"] = "; ".join(self.trained.images.dataset.copies)
        if self.trained.alignment:
            found["alignment"] = self.trained.alignment
        return found | ({"test images": shift.warning()} if shift else {})

    def _export_runtimes(self, folder: Path) -> None:
        context, spec, training = self.context, self.spec, self.trained.training
        splits, progress = self._image_splits(), self.reporter.progress
        exported = export_openvino(training, splits, folder, spec.seed, progress)
        self.runtimes[OPENVINO] = exported
        if exported.file is None:
            self.reporter.warn(f"torch serves this version, not OpenVINO: {exported.refusal}")
        int8 = context.runtime.name == INT8 if spec.int8 is None else spec.int8
        if int8:
            self.runtimes[INT8] = self._export_int8(exported, splits, folder)

    def _export_int8(self, exported: RuntimeCard, splits: ImageSplits, folder: Path) -> RuntimeCard:
        """Return the card of INT8, and warn if it is not published."""
        training, retrain, seed = self.trained.training, self.trained.retrain, self.spec.seed
        progress = self.reporter.progress
        auroc = self.evaluation.metrics.image_auroc if self.evaluation else None
        if exported.file is None:
            card = RuntimeCard(file=None, refusal=exported.refusal)
        elif ALGORITHMS[self.spec.detector].int8_tensors:
            assert retrain is not None
            card = export_retrained_int8(training, splits, auroc, folder, seed, progress, retrain)
        else:
            card = export_int8(training, splits, auroc, folder, seed, progress)
        if card.file is None:
            self.reporter.warn(f"INT8 is not published: {card.refusal}")
        return card

    def _measure_latencies(self, folder: Path) -> None:
        published = {name: folder / card.file for name, card in self.runtimes.items() if card.file}
        found = measure_latencies(
            self.trained.training.detector,
            self.trained.images.reads[0](),
            published,
            self.context.device,
            self._keep_alive,
        )
        self.latencies.extend(found)

    def _keep_alive(self) -> None:
        # A cancellation takes effect here.
        self.reporter.progress("publish", 0, 1, "bundle")

    def _image_splits(self) -> ImageSplits:
        """Return the training images and the test images that the evaluation could read."""
        images = self.context.datasets.images(self.spec.dataset, "test")
        level = self.trained.images.white_level
        reader = ImageReader(self.context.datasets, self.context.limits, images, level)
        scored = {each.path for each in self.evaluation.image_scores} if self.evaluation else set()
        good: list[ReadImage] = []
        defective: list[ReadImage] = []
        for image in images:
            if image.path in scored:
                split = good if image.class_name == GOOD else defective
                split.append(partial(reader.read_strict, image))
        return ImageSplits(self.trained.images.reads, good, defective)
