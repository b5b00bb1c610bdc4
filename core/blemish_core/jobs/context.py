# SPDX-License-Identifier: Apache-2.0
"""What jobs work with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from blemish_core.datasets import DatasetStore
from blemish_core.detectors.base import Progress
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs import retry
from blemish_core.models.store import ModelStore
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.search_index import SearchIndex

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class JobContext:
    """What jobs work with."""

    datasets: DatasetStore
    models: ModelStore
    index: SearchIndex
    frames: FrameStore
    weights: Path
    limits: ImageLimits
    device: str
    runtime: RuntimeChoice
    """What runs published models, and what a training asks; what learns does so in torch."""
    max_feature_bytes: int
    scratch: Path
    """For features that take more memory than that."""
    max_scratch_bytes: int
    checkpoints: Path
    """A folder for each job that can be gone on with by another attempt."""
    photographs: Path | None
    """Photographs of anything, for detectors that learn what is not the surface."""


def patiently(progress: Progress, call: Callable[[], _Answer]) -> _Answer:
    """Return what a call to Qdrant gives, waiting up to a minute for it to come back, and saying so."""
    return retry.patiently(call, partial(progress, "waiting for Qdrant", 0, 0, ""))
