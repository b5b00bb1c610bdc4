# SPDX-License-Identifier: Apache-2.0
"""The values that describe one image on its way through scoring: capture, request, inspection."""

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum

from blemish_core.calibration import Calibration
from blemish_core.detectors.base import PatchFeatures, Prediction
from blemish_core.imaging.alignment import Alignment
from blemish_core.imaging.image_input import ImageInput
from blemish_core.localization.defect_region import DefectRegion
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import Revision
from blemish_core.platform.errors import DeadlineExceeded
from blemish_core.platform.names import ModelRef
from blemish_core.search.labelled_items import DefectClass
from blemish_server.scoring.batcher import AdmissionLimit, Priority, Timings


@dataclass(frozen=True)
class QueueOptions:
    """The place of an image in the queue of its model."""

    caller: Hashable
    """Owner of the image: a stream, a client, or the connection of an unknown client."""
    priority: Priority = Priority.AUDIT
    deadline: float = math.inf
    """Latest useful time, on the clock of ``time.monotonic()``."""
    limit: AdmissionLimit = AdmissionLimit.STANDARD


@dataclass(frozen=True)
class Capture:
    """An image as a camera sent it, validated but not decoded."""

    image: ImageInput
    camera: str = ""
    """Name of the camera, empty if unknown."""
    time: datetime | None = None
    """Time of capture, if the client sent it."""
    arrived_s: float = 0.0
    """Arrival on the clock of ``time.monotonic()``, where the request limits the latency."""
    sequence: int | None = None
    """Sequence number of a frame of a stream."""
    name: str = ""
    """Name of the image for people, empty if unknown."""


NO_TIMINGS = Timings()
"""Placeholder until the batcher has measured the timings."""


class StoragePolicy(Enum):
    """The inspected images that are recorded for search."""

    NONE = "none"
    ANOMALOUS = "anomalous"
    ALL = "all"

    def selects(self, inspection: "Inspection") -> bool:
        """Return whether an image is recorded."""
        return self is StoragePolicy.ALL or (self is StoragePolicy.ANOMALOUS and inspection.is_anomalous)


class NamingPolicy(Enum):
    """The handling of a request for the class of a defect."""

    NONE = "none"
    AT_ONCE = "at once"
    """Name it by the labels that are in memory."""
    WAIT = "wait"
    """Wait a moment for labels that are read for the first time."""


@dataclass(frozen=True)
class ScoringRequest:
    """A request to score one image."""

    model: ModelRef
    queue: QueueOptions
    claim: Callable[[], Capture]
    """Returns the image. Called once, in the thread of a lane, so that streams can still replace it."""
    size_bytes: int
    """Approximate size of the encoded image."""
    storage: StoragePolicy = StoragePolicy.NONE
    false_reject_rate: float | None = None
    """Target that replaces the one of the calibration."""
    max_latency_s: float | None = None
    """Longest time from the arrival of the image to its inspection."""
    with_patches: bool = False
    """True to compute the features of each patch, for search by region."""
    with_regions: bool = False
    """True to outline the defects."""
    with_mask: bool = False
    """True to draw the outlines as a picture."""
    with_preview: bool = False
    """True to return the image as it was scored."""
    previews_good: bool = True
    """False to return it for anomalous images only."""
    naming: NamingPolicy = NamingPolicy.NONE
    """The images that are anomalous get the class of their defect."""
    on_version: Callable[[ModelRef], None] = lambda version: None
    """Called with the version that will score the image, before the image is queued."""

    @classmethod
    def of(
        cls,
        capture: Capture | ImageInput,
        model: ModelRef,
        queue: QueueOptions,
        *,
        storage: StoragePolicy = StoragePolicy.NONE,
        with_patches: bool = False,
        with_regions: bool = False,
        with_mask: bool = False,
        with_preview: bool = False,
        naming: NamingPolicy = NamingPolicy.NONE,
    ) -> "ScoringRequest":
        """Return a request for an image that no other can replace."""
        if isinstance(capture, ImageInput):
            capture = Capture(capture)
        return cls(
            model,
            queue,
            lambda: capture,
            len(capture.image.data),
            storage=storage,
            with_patches=with_patches,
            with_regions=with_regions,
            with_mask=with_mask,
            with_preview=with_preview,
            naming=naming,
        )

    @property
    def needs_regions(self) -> bool:
        """True if the defects of an anomalous image are outlined. Items of the index show their regions."""
        return self.with_regions or self.with_mask or self.storage is not StoragePolicy.NONE

    def check_latency(self, capture: Capture) -> None:
        """Raise DeadlineExceeded if the inspection of ``capture`` would come too late."""
        limit_s = self.max_latency_s
        if limit_s is not None and time.monotonic() > capture.arrived_s + limit_s:
            raise DeadlineExceeded(
                f"not scored within the max_latency of {limit_s:g} s; send fewer frames, or allow more time"
            )


@dataclass(frozen=True)
class Inspection:
    """The verdict of a model version on an image, and how it came about."""

    capture: Capture
    prediction: Prediction
    manifest: Manifest
    """Manifest of the model version."""
    revision: Revision
    """Calibration in force when a lane took the image."""
    runtime: str
    """Name of the runtime that ran the network."""
    shape: tuple[int, int]
    """(height, width) of the image, in pixels."""
    timings: Timings = NO_TIMINGS
    patches: PatchFeatures | None = None
    """Features of each patch, if requested."""
    regions: tuple[DefectRegion, ...] | None = None
    """Regions in px of the whole image, also where only a part was scored; None if not requested."""
    mask: bytes = b""
    """Regions as a PNG of ``shape``, if requested."""
    preview: bytes = b""
    """Image or region as a JPEG, as it was scored, if requested."""
    notes: tuple[str, ...] = ()
    """Notes for the caller."""
    alignment: Alignment | None = None
    """Place of the part in the frame; None if the mask of the version does not move."""
    defect_class: DefectClass | None = None
    """Class of the defect, if requested and the image is anomalous."""
    item: str = ""
    """Name of the item under which the image is recorded; empty if it is not, or not yet identified."""

    @property
    def calibration(self) -> Calibration:
        """The calibration in force."""
        return self.revision.calibration

    @property
    def score(self) -> float:
        """Raw anomaly score; higher is worse."""
        return self.prediction.score

    @property
    def threshold(self) -> float:
        """Score above which an image is anomalous."""
        return self.calibration.threshold

    @property
    def p_value(self) -> float:
        """Share of good images that score at least as high."""
        return self.calibration.p_value(self.score)

    @property
    def is_anomalous(self) -> bool:
        """True if the score exceeds the threshold."""
        return self.calibration.is_anomalous(self.score)

    @property
    def version(self) -> ModelRef:
        """The model version that scored the image."""
        return ModelRef(self.manifest.model, self.manifest.version)

    def at_false_reject_rate(self, target: float) -> "Inspection":
        """Return the inspection as the same model judges it at another false-reject rate.

        Raises:
            InvalidRequest: if ``target`` is not a valid rate.
        """
        calibration = self.calibration.at_false_reject_rate(target)
        return replace(self, revision=replace(self.revision, calibration=calibration))
