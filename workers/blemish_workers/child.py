# SPDX-License-Identifier: Apache-2.0
"""The child process of a worker: ``python -m blemish_workers.child SAY``, started by ``ChildProcess``."""

import os
import sys
from contextlib import suppress
from pathlib import Path


def main() -> None:
    from blemish_core.platform import gc_tuning, logs, threads
    from blemish_core.settings import read_settings
    from blemish_workers.settings import WorkerSettings

    # If memory runs out, the kernel shall take this process: its worker tells why and tries again.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    logs.configure()
    threads.use_passive_waiting()
    settings = read_settings(WorkerSettings, "blemish-worker")

    with gc_tuning.gc_frozen_after():
        from blemish_core.datasets import DatasetStore
        from blemish_core.jobs.context import JobContext
        from blemish_core.jobs.handlers.child import Child
        from blemish_core.models.store import ModelStore
        from blemish_core.search.frame_store import FrameStore
        from blemish_core.search.search_index import SearchIndex
        from blemish_core.settings import resolve_device
    threads.disable_opencv_threads()

    place = JobContext(
        datasets=DatasetStore(settings.datasets, settings.image_limits),
        models=ModelStore(settings.models),
        index=SearchIndex.connect(settings.qdrant_url, settings.qdrant_grpc_port, settings.qdrant_api_key),
        frames=FrameStore(settings.frames),
        weights=settings.weights,
        limits=settings.image_limits,
        device=resolve_device(settings.device),
        runtime=settings.runtime_choice,
        max_feature_bytes=settings.max_feature_bytes,
        scratch=settings.scratch or settings.store / "scratch",
        max_scratch_bytes=settings.max_scratch_bytes,
        checkpoints=settings.checkpoints,
        photographs=settings.photographs,
    )
    Child(place, sys.stdin.buffer, os.fdopen(int(sys.argv[1]), "wb")).run()


if __name__ == "__main__":
    main()
