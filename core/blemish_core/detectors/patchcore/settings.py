# SPDX-License-Identifier: Apache-2.0
"""Settings of PatchCore."""

from dataclasses import dataclass

from blemish_core.detectors.common import backbone as backbones
from blemish_core.detectors.common.backbone import Backbone
from blemish_core.platform.errors import InvalidRequest

NAME = "patchcore"
MIN_IMAGES = 2
"""One to train on, one to hold out."""


@dataclass(frozen=True)
class PatchCoreSettings:
    """The settings of a PatchCore training and of the model that it publishes."""

    backbone: str = backbones.DEFAULT
    input_size: int = 256
    """Side of the square input, px."""
    coreset_ratio: float = 0.1
    """Share of the patches kept in the memory bank."""
    neighbors: int = 9
    """Bank entries around the nearest one that weight the image score (b in the paper's equation 7)."""
    whitened: bool = True
    """True to whiten features and normalise distances by position, which the paper does not."""
    fine: bool | None = None
    """True to add the stage of stride 4, which the paper does not use; None follows ``whitened``."""

    def __post_init__(self) -> None:
        """Validate the settings.

        Raises:
            InvalidRequest: if a value is out of range or timm has no such backbone.
        """
        for field, value, low, high in (
            ("input_size", self.input_size, 64, 1024),
            ("neighbors", self.neighbors, 1, 50),
        ):
            if not low <= value <= high:
                raise InvalidRequest(
                    f"{field} is {value}, but must be {low} to {high}", field=f"patchcore.{field}"
                )
        if not 0 < self.coreset_ratio <= 1:
            raise InvalidRequest(
                f"coreset_ratio is {self.coreset_ratio}, but must be above 0 and at most 1",
                field="patchcore.coreset_ratio",
            )
        self.extractor()

    def extractor(self) -> Backbone:
        """Return the backbone that extracts features."""
        return Backbone.named(self.backbone, fine=self.whitened if self.fine is None else self.fine)
