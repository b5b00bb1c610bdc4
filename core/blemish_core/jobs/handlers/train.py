# SPDX-License-Identifier: Apache-2.0
"""What each kind of job does."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from blemish_core import report
from blemish_core.calibration import Calibration
from blemish_core.datasets.reading import ImageReader
from blemish_core.detectors.base import (
    Detector,
    Progress,
    ReadImage,
    TrainingContext,
    TrainingResult,
    running_on,
)
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.evaluation.evaluate import Evaluation, ImageSource
from blemish_core.evaluation.evaluate import evaluate as measure
from blemish_core.evaluation.metrics import GOOD
from blemish_core.evaluation.scoring import ScoredImage, score_images
from blemish_core.jobs.context import JobContext, patiently
from blemish_core.jobs.embed_source import images_of
from blemish_core.jobs.handlers import export, feedback
from blemish_core.jobs.messages import Embed
from blemish_core.jobs.record import EvaluateSpec, Result, TrainSpec, now
from blemish_core.jobs.shards import EMBEDDING, Shard
from blemish_core.models import bundle
from blemish_core.models.bundle import Manifest
from blemish_core.models.loading import load_detector, write_weights
from blemish_core.platform.errors import BlemishError, FailedPrecondition
from blemish_core.platform.names import ModelRef, dataset_name
from blemish_core.runtimes.card import RuntimeCard
from blemish_core.runtimes.choice import INT8, OPENVINO, TORCH
from blemish_core.search.item import CAMERA, DATASET, Item, item_id


class Notes:
    """What the job's owner is warned of, kept for the report too."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self.texts: list[str] = []

    def add(self, text: str | None) -> None:
        if text is not None:
            self._warn(text)
            self.texts.append(text)


@dataclass(frozen=True)
class Ear:
    """Who hears what happens in a job."""

    progress: Progress
    warn: Callable[[str], None]
    commit: Callable[[], None]
    """Called right before the effect becomes visible; raises if it must not."""


def train(place: JobContext, spec: TrainSpec, job: str, ear: Ear) -> Result:
    """Train a detector, calibrate and measure it, publish it as a version of its model."""
    progress = ear.progress
    if done := place.models.published_by(job, spec.model_id):
        # The attempt before died between publishing and saying so.
        return _promoted(place, spec, done)
    algorithm = ALGORITHMS[spec.detector]
    dataset = place.datasets.get(spec.dataset)
    images = place.datasets.images(spec.dataset, "train")
    reader, notes = ImageReader(place.datasets, place.limits, images), Notes(ear.warn)
    sound = reader.readable(partial(progress, "check"))
    notes.add(reader.warning())
    reads: list[ReadImage] = [partial(reader.read_strict, image) for image in sound]
    if spec.false_alarms_of:
        reads += feedback.good_images(place, spec, progress, notes.add)
    fast = partial(export.fast, place.device, place.runtime)
    training = algorithm.train(
        algorithm.settings(**spec.settings),
        reads,
        TrainingContext(
            weights=place.weights,
            seed=spec.seed,
            target_false_reject_rate=spec.target_false_reject_rate,
            progress=progress,
            device=place.device,
            fast_runtime=fast,
            max_feature_bytes=place.max_feature_bytes,
            scratch=place.scratch,
            max_scratch_bytes=place.max_scratch_bytes,
            checkpoint=place.checkpoints / job,
            photographs=place.photographs,
            warn=notes.add,
        ),
    )
    calibration = Calibration.of(
        training.held_out_scores.scores, training.held_out_scores.map_maxima, spec.target_false_reject_rate
    )
    if calibration.warranted_false_reject_rate > spec.target_false_reject_rate:
        notes.add(
            f"{len(calibration.scores)} held-out good images warrant a false-reject rate of "
            f"{calibration.warranted_false_reject_rate:.1%}, not the {spec.target_false_reject_rate:.1%} "
            "asked for: upload more good images"
        )
    detector = training.detector
    with running_on(detector, fast(detector.network, detector.input_size)):
        evaluation = _evaluated(place, detector, calibration, spec.dataset, progress, notes.add)
    measured = evaluation.metrics if evaluation else None

    runtimes: dict[str, RuntimeCard] = {}

    def write(folder: Path, number: int) -> None:
        if not runtimes:  # else the folder has them, and only the number is another
            runtimes.update(_runtimes(place, spec, training, reads, evaluation, folder, progress))
        progress("publish", 0, 1, "bundle")
        sha256, size = write_weights(training.detector, folder)
        if runtimes:
            sha256 |= bundle.sha256_below(folder, bundle.OPENVINO)
            size += sum(file.stat().st_size for file in (folder / bundle.OPENVINO).iterdir())
        manifest = Manifest(
            model=spec.model_id,
            version=number,
            detector=training.detector.name,
            settings=training.detector.settings,
            input_size=training.detector.input_size,
            category=dataset.category,
            dataset=spec.dataset,
            dataset_snapshot=dataset.snapshot,
            created=now(),
            job=job,
            seed=spec.seed,
            split=bundle.TrainingSplit(
                learned=training.learned,
                held_out=len(calibration.scores),
                method=training.method,
                skipped=reader.skipped,
            ),
            training=training.facts,
            calibration=calibration,
            metrics=measured,
            runtimes=runtimes,
            libraries=bundle.libraries(),
            sha256=sha256,
            size_bytes=size,
        )
        report.write(report.Report(manifest, evaluation, notes.texts), folder / bundle.REPORT)
        manifest = manifest.model_copy(
            update={"sha256": sha256 | bundle.sha256_below(folder, bundle.REPORT)}
        )
        bundle.write_manifest(manifest, folder)

    manifest = place.models.publish(spec.model_id, job, write, ear.commit)
    progress("publish", 1, 1, "bundle")
    return _promoted(place, spec, manifest)


def _promoted(place: JobContext, spec: TrainSpec, manifest: Manifest) -> Result:
    if spec.promote:
        place.models.promote(ModelRef(spec.model_id, manifest.version))
    return Result(model_version=manifest.name, metrics=manifest.metrics)


def _runtimes(
    place: JobContext,
    spec: TrainSpec,
    training: TrainingResult,
    train: Sequence[ReadImage],
    evaluation: Evaluation | None,
    folder: Path,
    progress: Progress,
) -> dict[str, RuntimeCard]:
    """Write what other runtimes than torch need into the bundle; torch alone where that was chosen."""
    if place.runtime.name == TORCH:
        return {}
    images = place.datasets.images(spec.dataset, "test")
    reader = ImageReader(place.datasets, place.limits, images)
    readable = {each.path for each in evaluation.image_scores} if evaluation else set()
    test: dict[bool, list[ReadImage]] = {True: [], False: []}
    for image in images:
        if image.path in readable:
            test[image.class_name == GOOD].append(partial(reader.read_strict, image))
    surface = export.Surface(train, good=test[True], defective=test[False])
    cards = {OPENVINO: export.export(training, surface, folder, spec.seed, progress)}
    asked = place.runtime.name == INT8 if spec.int8 is None else spec.int8
    if asked and ALGORITHMS[spec.detector].quantizable:
        auroc = evaluation.metrics.image_auroc if evaluation else None
        cards[INT8] = export.quantize(training, surface, auroc, folder, spec.seed, progress)
    return cards


def evaluate(place: JobContext, spec: EvaluateSpec, job: str, ear: Ear) -> Result:
    """Measure a model version on the test images of a dataset, and keep a report beside it."""
    progress = ear.progress
    manifest, detector = _load(place, spec.model)
    calibration = place.models.calibrations(manifest, detector.runtime.name).newest().calibration
    notes = Notes(ear.warn)
    evaluation = _evaluated(place, detector, calibration, spec.dataset, progress, notes.add)
    if evaluation is None:
        raise FailedPrecondition(f"{dataset_name(spec.dataset)} has no test images to measure on")
    judged_by = manifest.model_copy(update={"calibration": calibration})
    page = report.Report(judged_by, evaluation, notes.texts, by=report.EvaluationRun(job, now()))
    progress("report", 0, 1, "report")
    place.models.add_evaluation(
        ModelRef(manifest.model, manifest.version), job, partial(report.write, page), ear.commit
    )
    progress("report", 1, 1, "report")
    return Result(model_version=manifest.name, metrics=evaluation.metrics)


def embed(place: JobContext, step: Embed, ear: Ear) -> int:
    """Score a part of a dataset's test images, or of kept frames, and write their embeddings to its index.

    Returns how many points that are: one for each content that can be read.
    """
    manifest, detector = _load(place, step.spec.model)
    version = ModelRef(manifest.model, manifest.version)
    part = Shard(step.part, step.of)
    # One for all images, also if it is changed meanwhile.
    calibration = place.models.calibrations(manifest, detector.runtime.name).newest().calibration
    source, all_images = images_of(step.spec, place.datasets, place.frames)
    images = [image for image in all_images if part.has(image)]
    indexed = partial(patiently, ear.progress)
    reader = ImageReader(source, place.limits, images)
    done = 0
    for batch in score_images(reader, detector, images, partial(ear.progress, EMBEDDING)):
        vectors = np.stack([each.prediction.embedding for each in batch])
        if not done:
            indexed(partial(place.index.prepare, version, vectors.shape[1]))
        items = [_indexed(version, calibration, each) for each in batch]
        indexed(partial(place.index.put, version, items, vectors, step.job))
        done += len(batch)
    Notes(ear.warn).add(reader.warning())
    return done


@lru_cache(maxsize=1)
def _load(place: JobContext, name: str) -> tuple[Manifest, Detector]:
    """The model is kept: the next part of the same job needs it again."""
    ref = place.models.resolve(ModelRef.parse(name))
    return load_detector(place.models.folder(ref.model, ref.version or 0), place.device, place.runtime)


def forget_model() -> None:
    """Give back the memory of the model that was last used."""
    _load.cache_clear()


def _evaluated(
    place: JobContext,
    detector: Detector,
    calibration: Calibration,
    dataset: str,
    progress: Progress,
    warn: Callable[[str], None],
) -> Evaluation | None:
    on = ImageSource(place.datasets, place.limits, dataset)
    return measure(detector, calibration, on, place.device, progress, warn)


def _indexed(version: ModelRef, calibration: Calibration, of: ScoredImage) -> Item:
    image, score = of.image, of.prediction.score
    return Item(
        item_id(version, image.sha256),
        source=DATASET if image.dataset else CAMERA,
        dataset=image.dataset,
        category=image.category,
        path=image.path if image.dataset else "",
        class_name=image.class_name,
        sha256=image.sha256,
        score=score,
        p_value=calibration.p_value(score),
        anomalous=calibration.anomalous(score),
    )


def reason(error: Exception) -> str | None:
    """What to tell the job's owner of ``error``; None if it is a bug and only the log may tell."""
    import torch

    if isinstance(error, BlemishError):
        return str(error)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return f"the GPU's memory is exhausted; take a smaller input_size: {error}"
    if isinstance(error, MemoryError):
        return "memory is exhausted; take a smaller input_size or coreset_ratio, or fewer images"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the store's disk is full; make room and ask again"
    return None
