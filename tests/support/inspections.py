# SPDX-License-Identifier: Apache-2.0
"""Factories for inspections and what they are made of."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from blemish_core.calibration import Calibration
from blemish_core.detectors.base import PatchFeatures, Prediction
from blemish_core.imaging.image_input import ImageInput
from blemish_core.models.bundle import Manifest, TrainingSplit
from blemish_core.models.calibration_log import Revision, ThresholdRule
from blemish_core.platform.names import ModelRef
from blemish_server.scoring.batcher import Timings
from blemish_server.scoring.inspection import Capture, Inspection
from blemish_server.scoring.inspection_event import InspectionEvent

CREATED = datetime(2026, 11, 1, tzinfo=UTC)
TIMINGS = Timings(queue_s=0.02, decode_s=0.004, inference_s=0.3)


def make_calibration(
    threshold: float | None = 1.0, *, scores: tuple[float, ...] = (0.1, 0.2, 0.3)
) -> Calibration:
    """Return a calibration with a fixed threshold, or with the one that ``scores`` give."""
    return Calibration(
        target_false_reject_rate=0.05, scores=scores, map_maxima=(0.0,), fixed_threshold=threshold
    )


def make_manifest(model: str = "tile", version: int = 1) -> Manifest:
    """Return the manifest of a PatchCore version."""
    return Manifest(
        model=model,
        version=version,
        detector="patchcore",
        settings={},
        input_size=256,
        category=model,
        dataset=model,
        dataset_snapshot="",
        created=CREATED,
        job="job",
        seed=0,
        split=TrainingSplit(learned=4, held_out=3, method="held out"),
        calibration=make_calibration(None),
        metrics=None,
        libraries={},
        sha256={},
        size_bytes=100,
    )


def make_prediction(score: float = 0.5, *, size: int = 4) -> Prediction:
    """Return a prediction with a (size, size) map and an embedding of four dimensions."""
    embedding = np.eye(4, dtype=np.float32)[int(score) % 4]
    return Prediction(score, np.zeros((size, size), np.float32), embedding)


def make_capture(
    data: bytes = b"image", *, camera: str = "", time: datetime | None = None, arrived_s: float = 0.0
) -> Capture:
    """Return a capture whose image is not decoded."""
    return Capture(ImageInput(data), camera, time, arrived_s)


def make_inspection(
    score: float = 0.5,
    *,
    version: ModelRef | None = None,
    calibration: Calibration | None = None,
    capture: Capture | None = None,
    timings: Timings = TIMINGS,
    patches: PatchFeatures | None = None,
    shape: tuple[int, int] = (64, 64),
) -> Inspection:
    """Return an inspection by version 1 of ``tile``, anomalous if its score exceeds 1."""
    ref = version or ModelRef("tile", 1)
    return Inspection(
        capture or make_capture(),
        make_prediction(score),
        make_manifest(ref.model, ref.version or 1),
        Revision(1, ThresholdRule.TRAINED, "", CREATED, "", calibration or make_calibration()),
        "openvino",
        shape,
        timings,
        patches,
    )


def make_event(
    score: float = 0.5,
    *,
    camera: str = "left",
    version: ModelRef | None = None,
    sequence: int | None = None,
) -> InspectionEvent:
    """Return the event of an inspection as ``make_inspection`` returns it."""
    capture = replace(make_capture(camera=camera), sequence=sequence)
    return InspectionEvent.of(make_inspection(score, version=version, capture=capture))


def make_patches(similarity: float = 1.0, *, side: int = 4) -> PatchFeatures:
    """Return features of (side, side) patches that deviate at an angle with this cosine."""
    deviations = np.tile(np.array([similarity, (1 - similarity**2) ** 0.5], np.float32), (side, side, 1))
    return PatchFeatures(
        make_prediction(1.0, size=side),
        deviations,
        np.zeros((side, side), np.float32),
        0.5,
        np.array([1.0, 0.2], np.float32),
        0,
    )
