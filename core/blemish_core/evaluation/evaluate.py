# SPDX-License-Identifier: Apache-2.0
"""One pass over a dataset's test images: figures, latency, and the images worth a look."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from blemish_core.calibration import Calibration
from blemish_core.datasets import DatasetImage, DatasetStore
from blemish_core.datasets.reading import ImageReader
from blemish_core.detectors.base import Detector, Progress
from blemish_core.evaluation.examples import Example, Selection
from blemish_core.evaluation.image_figures import image_figures
from blemish_core.evaluation.metrics import GOOD, ClassMetrics, Interval, Metrics, best_f1_threshold
from blemish_core.evaluation.pixel_figures import PixelTally
from blemish_core.evaluation.resampling import Estimates
from blemish_core.evaluation.scoring import Stopwatch, score_images
from blemish_core.imaging.decode import ImageLimits, read_mask
from blemish_core.platform.errors import Corrupt, InvalidImage

_NAMED = 10


@dataclass(frozen=True)
class ImageSource:
    """A dataset's test images and where to read them."""

    store: DatasetStore
    limits: ImageLimits
    dataset: str
    """The dataset's id."""


@dataclass(frozen=True)
class ImageScore:
    """One test image's score."""

    path: str
    class_name: str
    score: float


@dataclass(frozen=True)
class ExampleImage:
    """An example with what the camera saw."""

    example: Example
    pixels: NDArray[np.uint8]
    """RGB, its longer side at most 256 px."""


@dataclass(frozen=True)
class Evaluation:
    """What a detector did on a dataset's test images."""

    metrics: Metrics
    image_scores: tuple[ImageScore, ...]
    """All that could be read, by path."""
    worst: tuple[ExampleImage, ...]
    best: tuple[ExampleImage, ...]

    def scores(self, class_name: str) -> list[float]:
        return [each.score for each in self.image_scores if each.class_name == class_name]


def evaluate(
    detector: Detector,
    calibration: Calibration,
    on: ImageSource,
    device: str,
    progress: Progress,
    warn: Callable[[str], None],
) -> Evaluation | None:
    """Measure a detector on a dataset's test images; None if there are none.

    Raises:
        Corrupt: if more images cannot be read than ``ImageReader`` skips.
    """
    images = on.store.images(on.dataset, "test")
    if not images:
        return None
    snapshot = on.store.get(on.dataset).snapshot
    reader = ImageReader(on.store, on.limits, images)
    masks = _Masks(on, detector.input_size)
    judged: list[ImageScore] = []
    pixels, selection, stopwatch = PixelTally(), Selection(calibration.threshold), Stopwatch()
    for batch in score_images(reader, detector, images, partial(progress, "evaluation")):
        stopwatch.add(batch)
        for each in batch:
            image, outcome = each.image, each.prediction
            judged.append(ImageScore(image.path, image.class_name, outcome.score))
            mask = masks.of(image)
            if mask is not None:
                pixels.add(image.class_name, outcome.anomaly_map, mask)
            selection.add(image, outcome.score, outcome.anomaly_map, mask)
    for warning in (reader.warning(), masks.warning()):
        if warning is not None:
            warn(warning)
    scores: dict[str, list[float]] = {}
    for each_judged in judged:
        scores.setdefault(each_judged.class_name, []).append(each_judged.score)
    good = scores.pop(GOOD, [])
    defective = [score for of_class in scores.values() for score in of_class]
    return Evaluation(
        metrics=Metrics(
            dataset=on.dataset,
            dataset_snapshot=snapshot,
            good_images=len(good),
            defective_images=len(defective),
            skipped_images=reader.skipped,
            unmasked_images=masks.missing,
            best_f1_threshold=best_f1_threshold(good, defective),
            classes={
                name: _class_metrics(good, of_class, calibration.threshold, pixels, name)
                for name, of_class in sorted(scores.items())
            },
            latency=stopwatch.latency(detector.runtime.name, device),
            **_fields(image_figures(good, defective, calibration.threshold) | pixels.figures()),
        ),
        image_scores=tuple(judged),
        worst=_pictures(reader, selection.worst()),
        best=_pictures(reader, selection.best()),
    )


def _class_metrics(
    good: Sequence[float], defective: Sequence[float], threshold: float, pixels: PixelTally, name: str
) -> ClassMetrics:
    estimates = image_figures(good, defective, threshold) | pixels.figures([name])
    known = {figure: each for figure, each in estimates.items() if figure in ClassMetrics.model_fields}
    return ClassMetrics(images=len(defective), **_fields(known))


def _fields(estimates: Estimates) -> "dict[str, float | dict[str, Interval] | None]":
    """Estimates as fields of a record of metrics."""
    return {name: each.value for name, each in estimates.items()} | {
        "intervals": {name: each.interval for name, each in estimates.items() if each.interval is not None}
    }


class _Masks:
    """Defective pixels at the model's size, and which images lack them."""

    def __init__(self, on: ImageSource, side: int) -> None:
        self._on = on
        self._side = side
        self._unusable: list[str] = []
        self.missing = 0
        """Defective images without a usable mask."""

    def of(self, image: DatasetImage) -> NDArray[np.bool_] | None:
        """Return (side, side): nothing in good images, None without a usable mask."""
        if image.class_name == GOOD:
            return np.zeros((self._side, self._side), dtype=np.bool_)
        try:
            mask = self._read(image)
        except (Corrupt, InvalidImage):
            self._unusable.append(image.path)
            mask = None
        self.missing += mask is None
        return mask

    def warning(self) -> str | None:
        if not self._unusable:
            return None
        more = len(self._unusable) - _NAMED
        return (
            f"the masks of {len(self._unusable)} images cannot be read or are not of the images' size, so "
            f"the pixel figures leave them out: {', '.join(self._unusable[:_NAMED])}"
            f"{f' and {more} more' if more > 0 else ''}; upload the dataset anew"
        )

    def _read(self, image: DatasetImage) -> NDArray[np.bool_] | None:
        data = self._on.store.mask_of(image)
        if data is None:
            return None
        mask = read_mask(data, self._on.limits)
        if mask.shape != (image.height, image.width):
            raise InvalidImage(f"the mask of {image.path} is not of its size")
        small = PillowImage.fromarray(mask).resize((self._side, self._side), PillowImage.Resampling.NEAREST)
        return np.asarray(small, dtype=np.bool_)


def _pictures(reader: ImageReader, exhibits: Sequence[Example]) -> tuple[ExampleImage, ...]:
    pictures = []
    for example in exhibits:
        pixels = reader.read(example.image)
        if pixels is None:
            continue
        small = PillowImage.fromarray(pixels)
        small.thumbnail((256, 256))
        pictures.append(ExampleImage(example, np.asarray(small)))
    return tuple(pictures)
