# SPDX-License-Identifier: Apache-2.0
"""One trial: a variant trained, calibrated and evaluated on one draw of a set, in this process."""

import hashlib
import importlib
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from tests.benchmarks.bench_embeddings import precision
from tests.benchmarks.real.image_sets import DATASET, ImageSet, SubsetLimits, training_subset
from tests.benchmarks.real.variants import Variant
from torch.nn import functional

from blemish_core.calibration import DEFAULT_FALSE_REJECT_RATE, Calibration
from blemish_core.datasets.reading import ImageReader
from blemish_core.detectors.base import Detector, Image, ReadImage, TrainingContext, running_on
from blemish_core.evaluation.evaluate import ImageSource, evaluate
from blemish_core.evaluation.metrics import GOOD
from blemish_core.evaluation.scoring import ScoredImage
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.handlers.export import faster_runtime
from blemish_core.platform.files import atomic_write
from blemish_core.runtimes.choice import RuntimeChoice

_ROOT = Path(__file__).parents[3]
_MEASURED = (
    "core/blemish_core/calibration.py",
    "core/blemish_core/detectors/base.py",
    "core/blemish_core/detectors/common",
    "core/blemish_core/evaluation",
    "core/blemish_core/imaging",
    "core/blemish_core/localization",
    "core/blemish_core/runtimes",
    "tests/benchmarks/bench_embeddings.py",
    "tests/benchmarks/real/image_sets.py",
    "tests/benchmarks/real/trial.py",
)
"""Code that decides the figures of every trial, relative to the checkout."""
_OF_ALGORITHM = {
    "patchcore": ("core/blemish_core/detectors/patchcore",),
    "efficientad": ("core/blemish_core/detectors/efficientad",),
    "anomalib": ("core/blemish_core/detectors/patchcore", "tests/benchmarks/real/anomalib_reference.py"),
}
"""Code that decides those of one algorithm, by its name."""

_NEIGHBOURS = 5
_TIMED_FRAMES = 7
_INPUT_PX = 256
"""Side of the input that the cost of a frame is compared with."""
_LANE = RuntimeChoice(threads=1)

Figures = dict[str, float | None]
"""Figures by name; None where the set does not allow one."""


class TrialImage(BaseModel):
    """The score of one test image."""

    model_config = ConfigDict(frozen=True)

    path: str
    class_name: str
    score: float


class Trial(BaseModel):
    """The figures of a variant on one draw of a set, as the cache stores them."""

    model_config = ConfigDict(frozen=True)

    variant: str
    set_name: str
    draw: int
    code: str
    """Version of the code that was measured."""
    figures: Figures
    threshold: float
    held_out: tuple[float, ...]
    """Scores that the threshold was calibrated on, ascending."""
    images: tuple[TrialImage, ...]


@cache
def code_version(algorithm: str) -> str:
    """Return a digest of the code that decides the figures of an algorithm's trials."""
    digest = hashlib.sha256()
    for part in (*_MEASURED, *_OF_ALGORITHM[algorithm]):
        path = _ROOT / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(_ROOT)} {content}\n".encode())
    return digest.hexdigest()[:16]


def warm_up() -> None:
    """Import what a first training would import, so that its time is that of a training."""
    for module in ("blemish_core.detectors.common.anomalib_models", "openvino", "timm"):
        importlib.import_module(module)


class TrialCache:
    """The trials of earlier runs in a folder, one file each; without a folder it keeps none."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def find(self, variant: Variant, images: ImageSet, draw: int, limits: SubsetLimits) -> Trial | None:
        """Return the trial of equal settings, images and code, or None."""
        path = self._path(variant, images, draw, limits)
        if path is None or not path.exists():
            return None
        return Trial.model_validate_json(path.read_bytes())

    def add(self, trial: Trial, variant: Variant, images: ImageSet, limits: SubsetLimits) -> None:
        path = self._path(variant, images, trial.draw, limits)
        if path is not None:
            atomic_write(path, trial.model_dump_json().encode())

    def _path(self, variant: Variant, images: ImageSet, draw: int, limits: SubsetLimits) -> Path | None:
        if self._folder is None:
            return None
        name = variant.algorithm.name
        parts = (name, dict(variant.settings), images.snapshot, asdict(limits), code_version(name))
        digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        readable = re.sub(r"[^A-Za-z0-9_-]", "_", f"{variant.name}-{images.name}-{draw}")
        return self._folder / f"{readable}-{digest}.json"


def run_trial(
    variant: Variant,
    images: ImageSet,
    draw: int,
    limits: SubsetLimits,
    *,
    photographs: Path | None,
    report_phase: Callable[[str], None],
    warn: Callable[[str], None],
) -> Trial:
    """Train, calibrate and evaluate on one thread.

    Args:
        variant: detector and settings.
        images: set to train and evaluate on.
        draw: seed of the training and choice of the training images.
        limits: most training images.
        photographs: folder of photographs for detectors that use some.
        report_phase: called with the phase and its progress.
        warn: called with warnings of training and evaluation.
    """

    def progress(phase: str, done: int, total: int, unit: str) -> None:
        report_phase(f"{phase} {done}/{total} {unit}")

    torch.set_num_threads(1)
    reads = _training_reads(images, draw, limits)
    began = time.perf_counter()
    training = variant.algorithm.train(
        variant.algorithm.settings(**variant.settings),
        reads,
        TrainingContext(
            weights=images.folder / "weights",
            seed=draw,
            target_false_reject_rate=DEFAULT_FALSE_REJECT_RATE,
            progress=progress,
            fast_runtime=partial(faster_runtime, "cpu", _LANE),
            photographs=photographs,
            warn=warn,
            mask=images.mask,
        ),
    )
    train_s = time.perf_counter() - began
    held_out = training.held_out_scores
    calibration = Calibration.of(held_out.scores, held_out.map_maxima, DEFAULT_FALSE_REJECT_RATE)
    detector = training.detector
    embedded: list[tuple[str, NDArray[np.float32]]] = []

    def keep_embedding(scored: ScoredImage) -> None:
        embedded.append((scored.image.class_name, scored.prediction.embedding))

    runtime = faster_runtime("cpu", _LANE, detector.network, detector.network_size)
    with running_on(detector, runtime):
        evaluation = evaluate(
            detector,
            calibration,
            ImageSource(images.store, ImageLimits(), DATASET),
            "cpu",
            progress,
            warn,
            keep_embedding,
        )
        assert evaluation is not None  # an imported set has test images
        costs = _costs(detector, reads)
    metrics = evaluation.metrics.model_dump()
    figures: Figures = {
        name: each for name, each in metrics.items() if isinstance(each, float | int | None)
    }
    figures |= search_figures([name for name, _ in embedded], [vector for _, vector in embedded])
    figures |= costs | {"train_s": train_s, "learned": training.learned}
    return Trial(
        variant=variant.name,
        set_name=images.name,
        draw=draw,
        code=code_version(variant.algorithm.name),
        figures=figures,
        threshold=calibration.threshold,
        held_out=calibration.scores,
        images=tuple(
            TrialImage(path=each.path, class_name=each.class_name, score=each.score)
            for each in evaluation.image_scores
        ),
    )


def search_figures(classes: Sequence[str], embeddings: Sequence[NDArray[np.float32]]) -> Figures:
    """Return the precision at 5 of a search for each test image among the others.

    "search_p5" counts images of the same side, good or defective, and "class_p5" those of the same defect
    class. A figure is None if the set has no two sides, no two defect classes, or no embeddings.
    """
    names = np.array(classes)
    good = names == GOOD
    if min(int(good.sum()), int((~good).sum())) < 2 or not embeddings[0].size:
        return {"search_p5": None, "class_p5": None}
    vectors = torch.from_numpy(np.stack(embeddings))
    sides, same = precision(vectors @ vectors.T, names, _NEIGHBOURS)
    several = len(set(names[~good].tolist())) > 1 and not math.isnan(same)
    return {"search_p5": sides, "class_p5": same if several else None}


def _training_reads(images: ImageSet, draw: int, limits: SubsetLimits) -> list[ReadImage]:
    stored = images.store.images(DATASET, "train")
    reader = ImageReader(images.store, ImageLimits(), stored)
    return [
        partial(reader.read_strict, stored[number]) for number in training_subset(len(stored), draw, limits)
    ]


def _costs(detector: Detector, reads: Sequence[ReadImage]) -> Figures:
    """Return the cost of a frame, in ms on one thread and relative to an input of 256 px, and sizes."""
    frames = [read() for read in reads[:_TIMED_FRAMES]]
    frame_ms = _median_ms([partial(_score, detector, frame) for frame in frames])
    small = [
        functional.interpolate(
            detector.prepare(frame)[None], size=(_INPUT_PX, _INPUT_PX), mode="bilinear", antialias=True
        )[0]
        for frame in frames
    ]
    input_ms = _median_ms([partial(detector.predict, [each]) for each in small])
    (patches,) = detector.predict_with_patches([detector.prepare(frames[0])])
    bank = detector.tensors().get("memory_bank")
    return {
        "frame_ms": frame_ms,
        "input_ms": input_ms,
        "frame_inputs": frame_ms / input_ms,
        "patches": patches.anomaly.size,
        "bank_entries": None if bank is None else len(bank),
    }


def _score(detector: Detector, frame: Image) -> None:
    detector.predict([detector.prepare(frame)])


def _median_ms(calls: Sequence[Callable[[], object]]) -> float:
    """Return the median duration of several calls, after one call to warm up."""
    calls[0]()
    times = []
    for call in calls:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * median(times)
