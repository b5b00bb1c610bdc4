# SPDX-License-Identifier: Apache-2.0
"""What jobs leave their marks on, as seen by the worker that sees them through."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blemish_core.datasets import DatasetStore
from blemish_core.jobs.embed_source import images_of
from blemish_core.jobs.record import EmbedSpec, Job
from blemish_core.jobs.retry import patiently
from blemish_core.models.store import ModelStore
from blemish_core.platform.names import ModelRef
from blemish_core.search.frame_store import FrameStore

if TYPE_CHECKING:
    from blemish_core.search.search_index import SearchIndex


@dataclass(frozen=True)
class WorkerStores:
    datasets: DatasetStore
    frames: FrameStore
    models: ModelStore
    checkpoints: Path
    """Has a folder for each job that can be gone on with by another attempt."""
    connect_index: "Callable[[], SearchIndex]"
    """Returns the same index at every call; before the first nothing of Qdrant's is loaded."""

    def count_to_embed(self, spec: EmbedSpec) -> int:
        """Count the contents that an embedding is of.

        Raises:
            NotFound: if there is no such dataset.
            FailedPrecondition: if there are none.
        """
        return len(images_of(spec, self.datasets, self.frames)[1])

    def publish_index(self, spec: EmbedSpec) -> None:
        """Let searches see what was embedded of a model version.

        Raises:
            Unavailable: if Qdrant is away for longer than a minute.
        """
        version = ModelRef.parse(spec.model)
        if spec.kept_frames:
            patiently(lambda: self.connect_index().mark_frames(version))
        patiently(lambda: self.connect_index().publish(version))

    def discard_staged(self, job: Job) -> None:
        """Drop the folders that a job left half written."""
        self.models.discard(job.id)

    def discard_all(self, job: Job) -> None:
        """Drop all that a job which did not succeed has made.

        Raises:
            Unavailable: if Qdrant is away for longer than a minute.
        """
        self.discard_staged(job)
        if isinstance(job.spec, EmbedSpec) and job.parts:
            version = ModelRef.parse(job.spec.model)
            patiently(lambda: self.connect_index().discard(version, job.id))

    def forget_checkpoint(self, job: Job) -> None:
        """Drop what was kept for another attempt."""
        shutil.rmtree(self.checkpoints / job.id, ignore_errors=True)
