# SPDX-License-Identifier: Apache-2.0
"""The description of a mask. Records and manifests contain it, so this module imports no image library."""

from pydantic import BaseModel, ConfigDict


class MaskSummary(BaseModel):
    """The description of a mask in records and manifests."""

    model_config = ConfigDict(frozen=True, extra="allow")

    sha256: str
    """SHA-256 of the PNG file, in hex."""
    width: int
    """Width of the reference image, in px."""
    height: int
    """Height of the reference image, in px."""
    ignored_share: float
    """Share of the pixels that the model ignores."""
    reference: str | None = None
    """Layout path of the image that frames are aligned to; None if the mask does not move.

    Empty in a request for the first training image."""
