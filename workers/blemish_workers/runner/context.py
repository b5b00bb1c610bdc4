# SPDX-License-Identifier: Apache-2.0
"""The job context of a worker or its child process, built from the settings."""

from functools import cache
from typing import TYPE_CHECKING

from blemish_core.datasets import DatasetStore
from blemish_core.jobs.context import JobContext
from blemish_core.models.store import ModelStore
from blemish_core.search.frame_store import FrameStore
from blemish_workers.settings import WorkerSettings

if TYPE_CHECKING:
    from blemish_core.search.search_index import SearchIndex


def make_job_context(settings: WorkerSettings, device: str) -> JobContext:
    """Return the stores and limits of jobs that compute on ``device``."""

    @cache
    def connect_index() -> "SearchIndex":
        # Imported at first use: it takes time and memory, and most workers never need it.
        from blemish_core.search.search_index import SearchIndex

        return SearchIndex.connect(
            settings.qdrant_url, settings.qdrant_grpc_port, settings.qdrant_api_key, settings.qdrant_proxy
        )

    return JobContext(
        datasets=DatasetStore(settings.datasets, settings.image_limits),
        models=ModelStore(settings.models),
        frames=FrameStore(settings.frames),
        connect_index=connect_index,
        weights=settings.weights,
        limits=settings.image_limits,
        device=device,
        runtime=settings.runtime_choice,
        max_feature_bytes=settings.max_feature_bytes,
        checkpoints=settings.checkpoints,
        rates=settings.rates,
        photographs=settings.photographs,
        disk=settings.disk,
    )
