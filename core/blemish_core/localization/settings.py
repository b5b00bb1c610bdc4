# SPDX-License-Identifier: Apache-2.0
"""The settings of regions, a part of each calibration. This module imports no image library."""

from pydantic import BaseModel, ConfigDict

from blemish_core.platform.errors import InvalidRequest

MAX_REGIONS = 64
"""Largest number of regions of an image."""
DEFAULT_REGIONS = 16
_LARGEST = 1e9


class RegionSettings(BaseModel):
    """The limits and the scale of the regions of a model version."""

    model_config = ConfigDict(frozen=True)

    pixel_threshold: float | None = None
    """Pixel score above which a region begins; None for the calibrated one."""
    smallest_area: float = 0.0
    """Smallest area in square px. The region with the highest peak is exempt."""
    max_regions: int = DEFAULT_REGIONS
    """Largest number of regions of an image."""
    mm_per_px: float | None = None
    """Width of a pixel in mm, None if unknown."""

    def checked(self) -> "RegionSettings":
        """Return these settings if all are in range.

        Raises:
            InvalidRequest: if one is not; the error names it.
        """
        # NaN fails every comparison, so each condition states what is valid.
        if self.pixel_threshold is not None and not abs(self.pixel_threshold) <= _LARGEST:
            raise InvalidRequest(
                f"regions.pixel_threshold is {self.pixel_threshold}; use a finite pixel score",
                field="regions.pixel_threshold",
            )
        if not 0 <= self.smallest_area <= _LARGEST:
            raise InvalidRequest(
                f"regions.smallest_area is {self.smallest_area:g}; use 0 or more square px",
                field="regions.smallest_area",
            )
        if not 1 <= self.max_regions <= MAX_REGIONS:
            raise InvalidRequest(
                f"regions.max_regions is {self.max_regions}; use 1 to {MAX_REGIONS}",
                field="regions.max_regions",
            )
        if self.mm_per_px is not None and not 0 < self.mm_per_px <= _LARGEST:
            raise InvalidRequest(
                f"regions.mm_per_px is {self.mm_per_px:g}; use a width above 0 mm",
                field="regions.mm_per_px",
            )
        return self
