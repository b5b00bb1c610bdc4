# SPDX-License-Identifier: Apache-2.0
"""What each kind of job does."""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from blemish_core import bundle, metrics
from blemish_core.bundle import Manifest
from blemish_core.calibration import Calibration
from blemish_core.datasets import DatasetImage, DatasetStore
from blemish_core.detectors.algorithms import ALGORITHMS
from blemish_core.detectors.detector import Detector, Image, Outcome, Progress, Terms
from blemish_core.errors import BlemishError, NotPossibleYet, Unavailable
from blemish_core.images import ImageLimits, decode, read_mask
from blemish_core.index import Item, SearchIndex, item_id
from blemish_core.jobs.record import EmbedSpec, EvaluateSpec, Result, TrainSpec, now
from blemish_core.metrics import ClassMetrics, Metrics
from blemish_core.models import ModelStore
from blemish_core.names import ModelRef, dataset_name

GOOD = "good"
_BATCH = 8
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Workplace:
    """What jobs work with."""

    datasets: DatasetStore
    models: ModelStore
    index: SearchIndex
    weights: Path
    limits: ImageLimits
    device: str
    max_feature_bytes: int
    checkpoints: Path
    """A folder for each job that can be gone on with by another attempt."""
    photographs: Path | None
    """Photographs of anything, for detectors that learn what is not the surface."""


@dataclass(frozen=True)
class Scored:
    """A dataset's image and what a detector says of it."""

    image: DatasetImage
    outcome: Outcome


def train(
    place: Workplace, spec: TrainSpec, job: str, progress: Progress, warn: Callable[[str], None]
) -> Result:
    """Train a detector, calibrate and measure it, publish it as a version of its model."""
    algorithm = ALGORITHMS[spec.detector]
    dataset = place.datasets.get(spec.dataset)
    images = place.datasets.images(spec.dataset, "train")
    training = algorithm.train(
        algorithm.settings(**spec.settings),
        [partial(_read, place, image) for image in images],
        Terms(
            weights=place.weights,
            seed=spec.seed,
            target_false_reject_rate=spec.target_false_reject_rate,
            progress=progress,
            device=place.device,
            max_feature_bytes=place.max_feature_bytes,
            checkpoint=place.checkpoints / job,
            photographs=place.photographs,
            warn=warn,
        ),
    )
    calibration = Calibration.of(
        training.held.scores, training.held.map_maxima, spec.target_false_reject_rate
    )
    if calibration.warranted_false_reject_rate > spec.target_false_reject_rate:
        warn(
            f"{len(calibration.scores)} held-out good images warrant a false-reject rate of "
            f"{calibration.warranted_false_reject_rate:.1%}, not the {spec.target_false_reject_rate:.1%} "
            "asked for: upload more good images"
        )
    measured = _measure(place, training.detector, calibration, spec.dataset, progress)

    def write(folder: Path, number: int) -> None:
        sha256, size = bundle.write_weights(training.detector, folder)
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
            split=bundle.Split(
                learned=training.learned,
                held_out=len(calibration.scores),
                method=training.method,
            ),
            training=training.facts,
            calibration=calibration,
            metrics=measured,
            libraries=bundle.libraries(),
            sha256=sha256,
            size_bytes=size,
        )
        bundle.write_manifest(manifest, folder)

    progress("publish", 0, 1, "bundle")
    manifest = place.models.publish(spec.model_id, job, write)
    if spec.promote:
        place.models.promote(ModelRef(spec.model_id, manifest.version))
    progress("publish", 1, 1, "bundle")
    return Result(model_version=manifest.name, metrics=measured)


def evaluate(place: Workplace, spec: EvaluateSpec, progress: Progress) -> Result:
    """Measure a model version on the test images of a dataset."""
    manifest, detector = _load(place, spec.model)
    calibration = place.models.calibrations(manifest).newest().calibration
    measured = _measure(place, detector, calibration, spec.dataset, progress)
    if measured is None:
        raise NotPossibleYet(f"{dataset_name(spec.dataset)} has no test images to measure on")
    return Result(model_version=manifest.name, metrics=measured)


def embed(place: Workplace, spec: EmbedSpec, progress: Progress) -> Result:
    """Score the test images of a dataset and write their embeddings to the version's index."""
    manifest, detector = _load(place, spec.model)
    version = ModelRef(manifest.model, manifest.version)
    # One for all images, also if it is changed meanwhile.
    calibration = place.models.calibrations(manifest).newest().calibration
    images = place.datasets.images(spec.dataset, "test")
    if not images:
        raise NotPossibleYet(
            f"{dataset_name(spec.dataset)} has no test images to index; training images are left out, "
            "since a model scores what it learned from too well"
        )
    indexed = partial(_patiently, progress)
    done = 0
    for batch in _scored(place, detector, images, partial(progress, "embedding")):
        vectors = np.stack([scored.outcome.embedding for scored in batch])
        if not done:
            indexed(partial(place.index.prepare, version, vectors.shape[1]))
        items = [_item(version, calibration, scored) for scored in batch]
        indexed(partial(place.index.put, version, items, vectors))
        done += len(batch)
    indexed(partial(place.index.publish, version))
    return Result(model_version=manifest.name, indexed_images=done)


def _load(place: Workplace, name: str) -> tuple[Manifest, Detector]:
    ref = place.models.resolve(ModelRef.parse(name))
    return bundle.load_detector(place.models.folder(ref.model, ref.version or 0), place.device)


def _read(place: Workplace, image: DatasetImage) -> Image:
    return decode(place.datasets.read(image), place.limits)


def _scored(
    place: Workplace,
    detector: Detector,
    images: Sequence[DatasetImage],
    progress: Callable[[int, int, str], None],
) -> Iterator[list[Scored]]:
    """Score images in batches, telling how many are done."""
    for start in range(0, len(images), _BATCH):
        progress(start, len(images), "images")
        batch = images[start : start + _BATCH]
        outcomes = detector.inspect([detector.prepare(_read(place, image)) for image in batch])
        yield [Scored(image, outcome) for image, outcome in zip(batch, outcomes, strict=True)]
    progress(len(images), len(images), "images")


def _measure(
    place: Workplace,
    detector: Detector,
    calibration: Calibration,
    dataset_id: str,
    progress: Progress,
) -> Metrics | None:
    """Figures on the test images of a dataset, None if it has none."""
    images = place.datasets.images(dataset_id, "test")
    if not images:
        return None
    scores: dict[str, list[float]] = {}
    maps: list[NDArray[np.float32]] = []
    masks: list[NDArray[np.bool_]] = []
    for batch in _scored(place, detector, images, partial(progress, "evaluation")):
        for scored in batch:
            scores.setdefault(scored.image.class_name, []).append(scored.outcome.score)
            mask = _mask(place, scored.image, detector.input_size)
            if mask is not None:
                maps.append(scored.outcome.anomaly_map)
                masks.append(mask)
    good = scores.pop(GOOD, [])
    defective = [score for of_class in scores.values() for score in of_class]
    pixel_auroc, aupro = metrics.pixel_figures(maps, masks)
    return Metrics(
        dataset=dataset_id,
        dataset_snapshot=place.datasets.get(dataset_id).snapshot,
        good_images=len(good),
        defective_images=len(defective),
        image_auroc=metrics.image_auroc(good, defective),
        pixel_auroc=pixel_auroc,
        aupro=aupro,
        false_reject_rate=_share(good, calibration),
        detection_rate=_share(defective, calibration),
        best_f1_threshold=metrics.best_f1_threshold(good, defective),
        classes={
            name: ClassMetrics(images=len(of_class), image_auroc=metrics.image_auroc(good, of_class))
            for name, of_class in sorted(scores.items())
        },
    )


def _mask(place: Workplace, image: DatasetImage, side: int) -> NDArray[np.bool_] | None:
    """The defective pixels at the model's size: none in good images, unknown without a mask."""
    if image.class_name == GOOD:
        return np.zeros((side, side), dtype=np.bool_)
    data = place.datasets.mask_of(image)
    if data is None:
        return None
    mask = PillowImage.fromarray(read_mask(data, place.limits))
    return np.asarray(mask.resize((side, side), PillowImage.Resampling.NEAREST), dtype=np.bool_)


def _share(scores: Sequence[float], calibration: Calibration) -> float | None:
    """The share of ``scores`` above the threshold."""
    if not scores:
        return None
    return sum(map(calibration.anomalous, scores)) / len(scores)


def _item(version: ModelRef, calibration: Calibration, scored: Scored) -> Item:
    image, score = scored.image, scored.outcome.score
    return Item(
        id=item_id(version, image.sha256),
        dataset=image.dataset,
        category=image.category,
        path=image.path,
        class_name=image.class_name,
        sha256=image.sha256,
        score=score,
        p_value=calibration.p_value(score),
        anomalous=calibration.anomalous(score),
    )


def _patiently(progress: Progress, write: Callable[[], None]) -> None:
    """Write to Qdrant, waiting up to a minute for it to come back."""
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return write()
        except Unavailable:
            if time.monotonic() > give_up:
                raise
            time.sleep(1)
            progress("waiting for Qdrant", 0, 0, "")  # hears a cancellation


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
