# SPDX-License-Identifier: Apache-2.0
"""What a manifest says of each runtime beside torch: how it agrees, what it costs, or why it is absent."""

from pydantic import BaseModel, ConfigDict


class _Card(BaseModel):
    model_config = ConfigDict(frozen=True)


class Parity(_Card):
    """How far a runtime's answers lie from torch's on golden images.

    Scores and maps in parts of the range (highest minus lowest pixel) of torch's maps of all golden images,
    embeddings by the Euclidean distance of two vectors of length 1. Always the worst of all images.
    """

    images: int
    score: float
    anomaly_map: float
    embedding: float
    tolerance: float | None
    """More was not allowed; None where nothing was, as of INT8, which AUROC judges."""

    @property
    def worst(self) -> float:
        return max(self.score, self.anomaly_map, self.embedding)


class Quantization(_Card):
    """What INT8 costs in AUROC on the test images of the model's own dataset."""

    calibration_images: int
    """Training images from which NNCF took the ranges of the activations."""
    auroc_f32: float | None
    """None without test images of both kinds."""
    auroc_int8: float | None
    max_drop: float

    @property
    def drop(self) -> float | None:
        if self.auroc_f32 is None or self.auroc_int8 is None:
            return None
        return self.auroc_f32 - self.auroc_int8


class HeldOut(_Card):
    """How held-out good images score under a runtime whose scores are not torch's."""

    scores: tuple[float, ...]
    map_maxima: tuple[float, ...]


class RuntimeCard(_Card):
    """A runtime that was made, whether or not the bundle has it."""

    file: str | None
    """The network in the bundle, the weights beside it; None if it was not published."""
    refusal: str = ""
    """Why it was not published."""
    parity: Parity | None = None
    quantization: Quantization | None = None
    held_out: HeldOut | None = None
    """None where torch's hold."""
