# SPDX-License-Identifier: Apache-2.0
"""Job contexts on a temporary folder."""

from pathlib import Path

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.context import JobContext
from blemish_core.models.store import ModelStore
from blemish_core.platform.disk import StoreDisk
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.search_index import SearchIndex


def make_job_context(folder: Path, index: SearchIndex | None = None) -> JobContext:
    """Return a context whose stores are empty; without an index, its use fails the test."""

    def connect_index() -> SearchIndex:
        if index is None:
            raise AssertionError("this test has no search index")
        return index

    return JobContext(
        datasets=DatasetStore(folder / "datasets", ImageLimits()),
        models=ModelStore(folder / "models"),
        frames=FrameStore(folder / "frames"),
        connect_index=connect_index,
        weights=folder / "weights",
        limits=ImageLimits(),
        device="cpu",
        runtime=RuntimeChoice(),
        max_feature_bytes=1 << 30,
        checkpoints=folder / "checkpoints",
        rates=folder / "rates",
        photographs=None,
        disk=StoreDisk(folder, 0),
    )
