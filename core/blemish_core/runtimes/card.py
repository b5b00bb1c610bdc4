# SPDX-License-Identifier: Apache-2.0
"""The part of a manifest about runtimes: parity, cost of INT8, time of a frame, reasons for refusal."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from blemish_core.platform.bounded import Count


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Parity(_Frozen):
    """The largest differences between a runtime's predictions and torch's on golden images.

    Scores and maps are relative to the range of torch's maps of all golden images, from the lowest to the
    highest pixel. Embeddings are compared by Euclidean distance.
    """

    images: Count
    score: float
    anomaly_map: float
    embedding: float
    tolerance: float | None
    """Largest difference allowed; None for INT8, which AUROC judges instead."""

    @property
    def worst(self) -> float:
        return max(self.score, self.anomaly_map, self.embedding)


class Quantization(_Frozen):
    """The cost of INT8 in AUROC on images of the model's own dataset."""

    calibration_images: Count
    """Number of training images from which NNCF took the ranges of activations."""
    auroc_f32: float | None
    """Image AUROC in float32; None without images of both kinds."""
    auroc_int8: float | None
    max_drop: float
    altered: int = 0
    """Number of altered good images that replace missing defective test images."""

    @property
    def drop(self) -> float | None:
        if self.auroc_f32 is None or self.auroc_int8 is None:
            return None
        return self.auroc_f32 - self.auroc_int8


class HeldOut(_Frozen):
    """Scores of held-out good images by a runtime whose scores differ from torch's."""

    scores: tuple[float, ...]
    map_maxima: tuple[float, ...]


class RuntimeCard(_Frozen):
    """A runtime that a training exported, published or not."""

    file: str | None
    """Network file in the bundle, next to its weights; None if it was not published."""
    refusal: str = ""
    """Reason why it was not published."""
    parity: Parity | None = None
    quantization: Quantization | None = None
    held_out: HeldOut | None = None
    """Scores for its own calibration; None if torch's apply."""
    tensors: str | None = None
    """File in the bundle with tensors of its own, such as a memory bank; None if torch's apply."""


class FrameLatency(_Frozen):
    """The time of one frame from its pixels to its prediction, measured after the training."""

    runtime: str
    device: str
    processor: str
    """Name of the CPU or GPU."""
    threads: Count
    """Threads on a CPU; 0 on a GPU."""
    median_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    frames: Count
    """Number of measured frames, after a warm-up."""
    width: Count
    """Width of the frame, px."""
    height: Count
    """Height of the frame, px."""
