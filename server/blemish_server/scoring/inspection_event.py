# SPDX-License-Identifier: Apache-2.0
"""The verdict on an image as watchers and the state of cameras show it, without the image."""

from dataclasses import dataclass
from datetime import UTC, datetime

from blemish_core.imaging.image_input import Region
from blemish_core.localization.defect_region import DefectRegion
from blemish_core.platform.names import ModelRef
from blemish_core.search.labelled_items import DefectClass
from blemish_server.scoring.inspection import Inspection


@dataclass(frozen=True, eq=False)
class InspectionEvent:
    """The parts of an inspection that stay in memory after its image."""

    time: datetime
    """Time of the verdict."""
    camera: str
    """Name of the camera; empty if unknown."""
    version: ModelRef
    is_anomalous: bool
    score: float
    threshold: float
    p_value: float
    shape: tuple[int, int]
    """(height, width) of what was scored, in pixels."""
    part: Region | None = None
    """Part of the image that was scored; None for all of it."""
    sequence: int | None = None
    """Sequence number of a frame of a stream."""
    capture_time: datetime | None = None
    item: str = ""
    """Name of the item under which the image is recorded; empty if it is not."""
    regions: tuple[DefectRegion, ...] = ()
    """Regions in px of the whole image, if they were outlined."""
    mm_per_px: float | None = None
    """Width of a pixel, if the calibration has one."""
    defect_class: DefectClass | None = None

    @classmethod
    def of(cls, inspection: Inspection) -> "InspectionEvent":
        """Return the event of an inspection that is complete now."""
        capture = inspection.capture
        return cls(
            datetime.now(UTC),
            capture.camera,
            inspection.version,
            inspection.is_anomalous,
            inspection.score,
            inspection.threshold,
            inspection.p_value,
            inspection.shape,
            capture.image.region,
            capture.sequence,
            capture.time,
            inspection.item,
            inspection.regions or (),
            inspection.calibration.regions.mm_per_px,
            inspection.defect_class,
        )
