# SPDX-License-Identifier: Apache-2.0
"""Batch-wise scoring of a dataset's images, with the time of each step."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from blemish_core.datasets import DatasetImage
from blemish_core.datasets.reading import ImageReader
from blemish_core.detectors.base import Detector, Prediction
from blemish_core.evaluation.metrics import Latency, Spread
from blemish_core.imaging.alignment import Alignment
from blemish_core.platform.errors import InvalidImage

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 8


@dataclass(frozen=True)
class ScoredImage:
    """An image of a dataset, its prediction, and the time of each step in seconds."""

    image: DatasetImage
    prediction: Prediction
    decode_s: float
    prepare_s: float
    inference_s: float
    """This image's share of the forward pass."""
    alignment: Alignment | None = None
    """Place of the part in the image; None if the detector's mask does not move."""


def score_images(
    reader: ImageReader,
    detector: Detector,
    images: Sequence[DatasetImage],
    progress: Callable[[int, int, str], None],
) -> Iterator[list[ScoredImage]]:
    """Score images in batches and report progress; the reader skips those that do not fit the model."""
    for start in range(0, len(images), BATCH):
        progress(start, len(images), "images")
        inputs, timed, alignments = [], [], []
        for image in images[start : start + BATCH]:
            began = time.perf_counter()
            pixels = reader.read(image)
            decoded = time.perf_counter()
            if pixels is None:
                continue
            try:
                seen = detector.mask.apply(pixels) if detector.mask is not None else None
                inputs.append(detector.prepare_masked(seen) if seen else detector.prepare(pixels))
            except InvalidImage as error:
                reader.skip(image, error)
                continue
            timed.append((image, decoded - began, time.perf_counter() - decoded))
            alignments.append(seen.alignment if seen is not None else None)
        if not inputs:
            continue
        yield [
            ScoredImage(image, prediction, decode_s, prepare_s, inference_s, alignment)
            for (image, decode_s, prepare_s), alignment, (prediction, inference_s) in zip(
                timed, alignments, _predicted(detector, inputs), strict=True
            )
        ]
    progress(len(images), len(images), "images")


def _predicted(detector: Detector, inputs: "Sequence[Tensor]") -> list[tuple[Prediction, float]]:
    """Return predictions with their share of the time; inputs of one shape share a forward pass."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for number, each in enumerate(inputs):
        by_shape.setdefault(each.shape, []).append(number)
    predicted: dict[int, tuple[Prediction, float]] = {}
    for numbers in by_shape.values():
        began = time.perf_counter()
        predictions = detector.predict([inputs[number] for number in numbers])
        inference_s = (time.perf_counter() - began) / len(numbers)
        predicted |= {n: (each, inference_s) for n, each in zip(numbers, predictions, strict=True)}
    return [predicted[number] for number in range(len(inputs))]


class Stopwatch:
    """An accumulator of the times of scored batches."""

    def __init__(self) -> None:
        self._batches: list[list[tuple[float, float, float]]] = []

    def add(self, batch: Sequence[ScoredImage]) -> None:
        self._batches.append([(each.decode_s, each.prepare_s, each.inference_s) for each in batch])

    def latency(self, runtime: str, device: str) -> Latency | None:
        """Return quantiles over images, without the first batch (a warm-up) unless it is the only one."""
        counted = self._batches[1:] or self._batches
        if not counted:
            return None
        decode, prepare, inference = np.array([each for batch in counted for each in batch]).T * 1000
        return Latency(
            runtime=runtime,
            device=device,
            batch_size=max(map(len, counted)),
            decode=_spread(decode),
            prepare=_spread(prepare),
            inference=_spread(inference),
        )


def _spread(times_ms: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> Spread:
    p50, p95, p99 = (round(float(value), 3) for value in np.quantile(times_ms, [0.5, 0.95, 0.99]))
    return Spread(p50_ms=p50, p95_ms=p95, p99_ms=p99)
