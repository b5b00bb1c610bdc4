# SPDX-License-Identifier: Apache-2.0
"""One pass over a dataset's test images: metrics, latency and example images."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from blemish_core.calibration import Calibration
from blemish_core.datasets import DatasetImage, DatasetStore
from blemish_core.datasets.copies import find_equal_files
from blemish_core.datasets.reading import ImageReader
from blemish_core.detectors.base import Detector, Progress
from blemish_core.evaluation.examples import Example, Selection
from blemish_core.evaluation.good_shift import GoodShift, find_shift
from blemish_core.evaluation.image_metrics import image_metrics
from blemish_core.evaluation.metrics import GOOD, ClassMetrics, Interval, Metrics, best_f1_threshold
from blemish_core.evaluation.pixel_metrics import PixelHistograms
from blemish_core.evaluation.region_metrics import RegionAgreement
from blemish_core.evaluation.resampling import Estimates
from blemish_core.evaluation.scoring import ScoredImage, Stopwatch, score_images
from blemish_core.imaging.alignment import Alignment, Motion
from blemish_core.imaging.decode import ImageLimits, read_mask
from blemish_core.imaging.frame_mask import FrameMask, visible
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.localization.defect_region import DefectRegion
from blemish_core.localization.find_regions import find_regions
from blemish_core.platform.errors import Corrupt, InvalidImage
from blemish_core.platform.names import dataset_name
from blemish_layouts.names import printable

_NAMED = 10


@dataclass(frozen=True)
class ImageSource:
    """The dataset to evaluate on, and the store that contains it."""

    store: DatasetStore
    limits: ImageLimits
    dataset: str
    """Id of the dataset."""
    level: WhiteLevel | None = None
    """White level of the model, by which images are decoded; None for versions without one."""
    learned: Collection[str] = frozenset()
    """SHA-256 of the training images of the model, in hex, which metrics exclude."""


@dataclass(frozen=True)
class ImageScore:
    """The score of one test image."""

    path: str
    class_name: str
    score: float
    original: str = ""
    """Path of the file that was uploaded, if it differs from ``path``."""
    sha256: str = ""
    """SHA-256 of the encoded bytes, in hex."""

    @property
    def shown(self) -> str:
        """Path for people, in one line."""
        return printable(self.original or self.path)


@dataclass(frozen=True)
class ExampleImage:
    """An example with the pixels of the image."""

    example: Example
    pixels: NDArray[np.uint8]
    """RGB pixels (H, W, 3) with a longer side of at most 256 px."""
    regions: tuple[DefectRegion, ...] = ()
    """Regions in px of the frame, none if the verdict is normal."""
    frame: tuple[int, int] = (1, 1)
    """Height and width of the frame in px."""
    looks: NDArray[np.bool_] | None = None
    """(H, W), True where the model looks; None if it looks at all pixels."""


@dataclass(frozen=True)
class Evaluation:
    """The results of a detector on a dataset's test images."""

    metrics: Metrics
    image_scores: tuple[ImageScore, ...]
    """Scores of all readable images, sorted by path."""
    worst: tuple[ExampleImage, ...]
    best: tuple[ExampleImage, ...]
    good_shift: GoodShift | None = None
    """Good images that score higher than held-out ones, if any."""

    def scores(self, class_name: str) -> list[float]:
        """Return the scores of one class, by path."""
        return [each.score for each in self.image_scores if each.class_name == class_name]


def evaluate(
    detector: Detector,
    calibration: Calibration,
    source: ImageSource,
    device: str,
    progress: Progress,
    warn: Callable[[str], None],
    on_scored: Callable[[ScoredImage], None] = lambda scored: None,
) -> Evaluation | None:
    """Evaluate a detector on a dataset's test images; return None if there are none to measure on.

    ``on_scored`` is called with each image and its prediction, of which the result keeps only the score.

    Raises:
        Corrupt: if more images are unreadable than ``ImageReader`` skips.
    """
    images, copied = _without_copies(source)
    if copied:
        warn(_copied_warning(copied, source.dataset))
    if not images:
        return None
    snapshot = source.store.get(source.dataset).snapshot
    reader = ImageReader(source.store, source.limits, images, source.level)
    masks = _Masks(source)
    image_scores: list[ImageScore] = []
    ignored: list[str] = []
    unaligned: list[str] = []
    pixels, selection, stopwatch = PixelHistograms(), Selection(calibration.threshold), Stopwatch()
    outlines = RegionAgreement()
    for batch in score_images(reader, detector, images, partial(progress, "evaluation")):
        stopwatch.add(batch)
        for each in batch:
            image, prediction = each.image, each.prediction
            on_scored(each)
            if each.alignment is not None and each.alignment.motion is None:
                unaligned.append(image.shown)
            mask = masks.of(image)
            if mask is not None:
                looks = _looks(detector.mask, mask.shape, each)
                if looks is not None and mask.any() and not mask[looks].any():
                    ignored.append(image.shown)
                    continue
                pixels.add(image.class_name, prediction.anomaly_map, mask, looks)
                if looks is not None:
                    mask = mask & looks
                if mask.any() and calibration.is_anomalous(prediction.score):
                    # To decode these again takes less memory than to keep all pixels of a batch.
                    read = reader.read(image)
                    regions = _regions(read, prediction.anomaly_map, calibration, detector.mask)
                    outlines.add(image.class_name, regions, mask)
            image_scores.append(
                ImageScore(image.path, image.class_name, prediction.score, image.original, image.sha256)
            )
            selection.add(image, prediction.score, prediction.anomaly_map, mask)
    good_images = [each for each in image_scores if each.class_name == GOOD]
    by_path = {image.path: image for image in images}
    shift = find_shift(
        calibration,
        [each.score for each in good_images],
        [partial(_seen, reader, by_path[each.path], detector.mask) for each in good_images],
    )
    shifted = None if shift is None else shift.warning()
    no_good = _no_good_warning(image_scores)
    notes = (_unaligned_warning(unaligned), _ignored_warning(ignored), shifted, no_good)
    for warning in (reader.warning(), masks.warning(), *notes):
        if warning is not None:
            warn(warning)
    scores: dict[str, list[float]] = {}
    for image_score in image_scores:
        scores.setdefault(image_score.class_name, []).append(image_score.score)
    good = scores.pop(GOOD, [])
    defective = [score for of_class in scores.values() for score in of_class]
    return Evaluation(
        metrics=Metrics(
            dataset=source.dataset,
            dataset_snapshot=snapshot,
            good_images=len(good),
            defective_images=len(defective),
            skipped_images=reader.skipped,
            unmasked_images=masks.missing,
            threshold=calibration.threshold,
            regions_threshold=calibration.threshold,
            regions_pixel_threshold=calibration.pixel_threshold,
            copied_images=len(copied),
            best_f1_threshold=best_f1_threshold(good, defective),
            classes={
                name: _class_metrics(good, of_class, calibration.threshold, pixels, outlines, name)
                for name, of_class in sorted(scores.items())
            },
            latency=stopwatch.latency(detector.runtime.name, device),
            **_fields(
                image_metrics(good, defective, calibration.threshold)
                | pixels.metrics()
                | outlines.metrics()
            ),
        ),
        image_scores=tuple(image_scores),
        worst=_example_images(reader, selection.worst(), calibration, detector.mask),
        best=_example_images(reader, selection.best(), calibration, detector.mask),
        good_shift=shift,
    )


def _without_copies(source: ImageSource) -> tuple[list[DatasetImage], list[DatasetImage]]:
    """Return the test images to measure on, and those left out because of equal files.

    Left out are copies of images that the model was trained on, and files that are good and defective at
    once. The first of several equal test images counts.
    """
    images = source.store.images(source.dataset)
    contradictory = {group.sha256 for group in find_equal_files(images) if group.are_contradictory}
    known = contradictory | set(source.learned)
    kept: list[DatasetImage] = []
    copied: list[DatasetImage] = []
    for image in images:
        if image.split == "test":
            (copied if image.sha256 in known else kept).append(image)
            known.add(image.sha256)
    return kept, copied


def _copied_warning(images: Sequence[DatasetImage], dataset: str) -> str:
    count = "1 test image" if len(images) == 1 else f"{len(images)} test images"
    equal = "equals" if len(images) == 1 else "equal"
    return (
        f"the figures leave out {count} of {dataset_name(dataset)} that {equal} a training image or "
        f"another test image: {_named([image.shown for image in images])}; upload others"
    )


def _seen(reader: ImageReader, image: DatasetImage, mask: FrameMask | None) -> NDArray[np.uint8]:
    return visible(reader.read_strict(image), mask)


def _looks(mask: FrameMask | None, shape: tuple[int, int], scored: ScoredImage) -> NDArray[np.bool_] | None:
    """Return where the detector looked at a scored image, at the size ``shape``; None for everywhere."""
    if mask is None:
        return None
    return mask.resized(shape, _scaled_motion(scored.alignment, scored.image.width, shape))


def _scaled_motion(alignment: Alignment | None, width: int, shape: tuple[int, int]) -> Motion | None:
    """Return the motion of a part in a picture of ``shape`` (rows, columns) of a frame of a width in px."""
    if alignment is None or alignment.motion is None:
        return None
    return alignment.motion.scaled(shape[1] / width)


def _unaligned_warning(paths: Sequence[str]) -> str | None:
    """Return a warning about images that could not be aligned to the reference of the mask."""
    if not paths:
        return None
    return f"{len(paths)} images could not be aligned, so their masks were not moved: {_named(paths)}"


def _no_good_warning(image_scores: Sequence[ImageScore]) -> str | None:
    """Return a warning about a test set without good images, of which some may have another name."""
    classes = sorted({each.class_name for each in image_scores})
    if not classes or GOOD in classes:
        return None
    return (
        f"no test image is good, by the classes {_named(classes)}, so no figures compare good and "
        "defective images; if one of these holds good images, import it again with --good"
    )


def _ignored_warning(paths: Sequence[str]) -> str | None:
    """Return a warning about images whose defects the detector's mask ignores."""
    if not paths:
        return None
    return (
        f"the mask of the model ignores the whole defect of {len(paths)} images, so the metrics exclude "
        f"them: {_named(paths)}; check the mask"
    )


def _named(paths: Sequence[str]) -> str:
    """Return the first paths, and the number of the others."""
    more = len(paths) - _NAMED
    return f"{', '.join(paths[:_NAMED])}{f' and {more} more' if more > 0 else ''}"


def _class_metrics(
    good: Sequence[float],
    defective: Sequence[float],
    threshold: float,
    pixels: PixelHistograms,
    outlines: RegionAgreement,
    class_name: str,
) -> ClassMetrics:
    estimates = (
        image_metrics(good, defective, threshold)
        | pixels.metrics([class_name])
        | outlines.metrics([class_name])
    )
    known = {name: each for name, each in estimates.items() if name in ClassMetrics.model_fields}
    return ClassMetrics(images=len(defective), **_fields(known))


def _fields(estimates: Estimates) -> "dict[str, float | dict[str, Interval] | None]":
    """Return estimates as fields of Metrics or ClassMetrics."""
    return {name: each.value for name, each in estimates.items()} | {
        "intervals": {name: each.interval for name, each in estimates.items() if each.interval is not None}
    }


class _Masks:
    """Reader of ground-truth masks."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._unusable: list[str] = []
        self.missing = 0
        """Number of defective images without a usable mask."""

    def of(self, image: DatasetImage) -> NDArray[np.bool_] | None:
        """Return a mask (H, W), empty for a good image, or None without a usable mask."""
        if image.class_name == GOOD:
            return np.zeros((image.height, image.width), dtype=np.bool_)
        try:
            mask = self._read(image)
        except (Corrupt, InvalidImage):
            self._unusable.append(image.shown)
            mask = None
        self.missing += mask is None
        return mask

    def warning(self) -> str | None:
        if not self._unusable:
            return None
        return (
            f"the masks of {len(self._unusable)} images are unreadable or differ in size from the "
            f"images, so the pixel metrics exclude them: {_named(self._unusable)}; upload the masks again"
        )

    def _read(self, image: DatasetImage) -> NDArray[np.bool_] | None:
        merged: NDArray[np.bool_] | None = None
        for data in self._source.store.masks_of(image):
            mask = read_mask(data, self._source.limits)
            if mask.shape != (image.height, image.width):
                raise InvalidImage(f"the mask of {image.shown} differs from it in size; upload it again")
            merged = mask if merged is None else merged | mask
        return merged


def _regions(
    pixels: NDArray[np.uint8] | None,
    anomaly_map: NDArray[np.float32],
    calibration: Calibration,
    mask: FrameMask | None,
) -> tuple[DefectRegion, ...]:
    """Return the regions of an anomalous image, none if it cannot be read any more."""
    if pixels is None:
        return ()
    seen = visible(pixels, mask)
    return find_regions(anomaly_map, seen, calibration.pixel_threshold, calibration.regions)


def _example_images(
    reader: ImageReader, examples: Sequence[Example], calibration: Calibration, mask: FrameMask | None
) -> tuple[ExampleImage, ...]:
    found = []
    for example in examples:
        pixels = reader.read(example.image)
        if pixels is None:
            continue
        found.append(example_image(example, pixels, calibration, mask))
    return tuple(found)


def example_image(
    example: Example, pixels: NDArray[np.uint8], calibration: Calibration, mask: FrameMask | None
) -> ExampleImage:
    """Return an example with its pixels reduced, and its regions if it is anomalous."""
    small = PillowImage.fromarray(pixels)
    small.thumbnail((256, 256))
    regions: tuple[DefectRegion, ...] = ()
    if calibration.is_anomalous(example.score):
        regions = _regions(pixels, example.anomaly_map, calibration, mask)
    looks = None
    if mask is not None:
        shape = (small.height, small.width)
        motion = _scaled_motion(mask.align(pixels), pixels.shape[1], shape)
        looks = mask.resized(shape, motion)
    height, width, _ = pixels.shape
    return ExampleImage(example, np.asarray(small), regions, (height, width), looks)
