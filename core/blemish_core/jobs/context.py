# SPDX-License-Identifier: Apache-2.0
"""The stores and limits that jobs use."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.models.store import ModelStore
from blemish_core.platform.disk import StoreDisk
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.search.frame_store import FrameStore

if TYPE_CHECKING:
    from blemish_core.search.search_index import SearchIndex


@dataclass(frozen=True)
class JobContext:
    """The stores and limits of a worker and its child processes.

    The worker itself computes nothing and imports neither torch nor grpc, so that it takes little memory.
    """

    datasets: DatasetStore
    models: ModelStore
    frames: FrameStore
    connect_index: "Callable[[], SearchIndex]"
    """Function that returns the one search index; the first call imports grpc."""
    weights: Path
    limits: ImageLimits
    device: str
    """Device for torch."""
    runtime: RuntimeChoice
    """Runtime for published models, and for the exports of a training; training itself runs in torch."""
    max_feature_bytes: int
    """Memory for the features of one training, in bytes."""
    checkpoints: Path
    """Folder with one subfolder per job, from which a later attempt resumes."""
    rates: Path
    """Folder of the measured speed of workers."""
    photographs: Path | None
    """Folder of unrelated photographs, for detectors that train on them."""
    disk: StoreDisk
    """Disk that a job needs space on."""

    @property
    def index(self) -> "SearchIndex":
        """Search index, connected at first use."""
        return self.connect_index()
