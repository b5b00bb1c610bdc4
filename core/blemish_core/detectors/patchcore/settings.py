# SPDX-License-Identifier: Apache-2.0
"""Settings of PatchCore."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from blemish_core.detectors.common.backbone import DEFAULT, Backbone, can_look_up
from blemish_core.imaging.geometry import InputGeometry, Scale, Square
from blemish_core.imaging.preprocessing import Channels
from blemish_core.platform.errors import InvalidRequest

NAME = "patchcore"
MIN_IMAGES = 2
"""One to train on, one to hold out."""
DEFAULT_INPUT_SIZE = 320
"""Shorter side of inputs, px; see docs/benchmarks.md."""
OLD_INPUT_SIZE = 256
"""Side of the square inputs of versions without a scale, px."""
_MAX_INPUT_SIZE = 1024
FEATURE_TENSORS = frozenset(
    ("memory_bank", "supports", "index_centroids", "typical_distance", "spread", "score_scale")
)
"""Tensors that depend on how exactly a runtime computes features.

Center and whitening do too, but they define the space of embeddings, which all runtimes share.
"""

NEAR = 0.1
"""Quantile of an image's distances that shows how far its undamaged patches lie."""
PRIOR = 0.3
"""Weight of the typical mean distance, which steadies images with nearly no distance elsewhere."""
MOST_UNIT = 3.0
"""Largest unit. An image that is farther away than that as a whole is anomalous."""


@dataclass(frozen=True)
class PatchCoreSettings:
    """The settings of a PatchCore training and of the model that it publishes."""

    backbone: str = DEFAULT
    input_size: int | None = None
    """Shorter side of the input, px; None chooses it from the training images."""
    smallest_defect: float | None = None
    """Width of the smallest defect to find, in px of the training images; excludes ``input_size``."""
    coreset_ratio: float = 0.1
    """Share of the patches kept in the memory bank."""
    max_entries: int = 10_000
    """Most entries of the memory bank, which bound the time of a frame and of a training."""
    neighbors: int = 9
    """Bank entries around the nearest one that weight the image score (b in the paper's equation 7)."""
    whitened: bool = False
    """True for models of older versions, whose features are whitened."""
    relative: bool = True
    """True to relate distances to those of the whole image, which the paper does not."""
    fine: bool = False
    """True to add the stage of stride 4, as older versions do."""
    scale: float | None = None
    """Input pixels per frame pixel, from training; None scales to squares, as older versions do."""
    frame: tuple[int, int] | None = None
    """(height, width) of all training images, px; None if they differ."""
    normalization: tuple[Channels, Channels] | None = None
    """Mean and deviation of the backbone's channels, from training; None looks them up."""

    def __post_init__(self) -> None:
        """Validate the settings.

        Raises:
            InvalidRequest: if a value is out of range or timm has no such backbone.
        """
        for field, value, low, high in (
            ("input_size", self.input_size, 64, _MAX_INPUT_SIZE),
            ("neighbors", self.neighbors, 1, 50),
            ("max_entries", self.max_entries, 1, 1_000_000),
        ):
            if value is not None and not low <= value <= high:
                raise InvalidRequest(
                    f"{field} is {value}, but must be {low} to {high}", field=f"patchcore.{field}"
                )
        if not 0 < self.coreset_ratio <= 1:
            raise InvalidRequest(
                f"coreset_ratio is {self.coreset_ratio}, but must be above 0 and at most 1",
                field="patchcore.coreset_ratio",
            )
        if self.smallest_defect is not None and not 1 <= self.smallest_defect < inf:
            raise InvalidRequest(
                f"smallest_defect is {self.smallest_defect:g} px, but must be at least 1 px and finite",
                field="patchcore.smallest_defect",
            )
        if self.smallest_defect is not None and self.input_size is not None and self.scale is None:
            raise InvalidRequest(
                "input_size and smallest_defect both choose the scale; leave one of them out",
                field="patchcore.smallest_defect",
            )
        if self.normalization is None and can_look_up(self.backbone):
            self.extractor()

    @property
    def geometry(self) -> InputGeometry:
        """Rule for the size of inputs."""
        if self.scale is not None:
            return Scale(self.scale)
        return Square(self.input_size or OLD_INPUT_SIZE)

    def extractor(self) -> Backbone:
        """Return the backbone that extracts features."""
        return Backbone.named(self.backbone, fine=self.fine)

    def channels(self) -> tuple[Channels, Channels]:
        """Return mean and deviation of the backbone's channels.

        Raises:
            FailedPrecondition: if they must be looked up, which needs timm, and it is not installed.
        """
        if self.normalization is not None:
            return self.normalization
        backbone = self.extractor()
        return backbone.mean, backbone.std


def requested(*, whitened: bool = True, **others: Any) -> PatchCoreSettings:
    """Return the settings of a training: the defaults, or those of the paper if not ``whitened``.

    The name is that of the contract, in which the defaults once began with whitening.

    Raises:
        InvalidRequest: if a value is out of range.
    """
    settings = PatchCoreSettings(**({"relative": whitened} | others))
    if can_look_up(settings.backbone):
        settings.extractor().require_any_size()
    return settings


def stored(settings: Mapping[str, Any]) -> PatchCoreSettings:
    """Return the settings of a bundle, also of older versions, which use plain features of two stages."""
    given = {"whitened": False, "relative": False} | dict(settings)
    if given.get("frame") is not None:
        given["frame"] = tuple(given["frame"])  # a list in JSON
    if given.get("normalization") is not None:
        mean, deviation = given["normalization"]
        given["normalization"] = tuple(mean), tuple(deviation)
    return PatchCoreSettings(**given)
