# SPDX-License-Identifier: Apache-2.0
"""Metrics of the server's state, read when Prometheus scrapes it."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from blemish_core.jobs.store import JobStore
from blemish_core.jobs.worker_registry import WorkerRegistry
from blemish_core.platform.errors import Unavailable
from blemish_core.platform.lossy_output import lost_lines
from blemish_server.dependencies import Dependencies
from blemish_server.disk_monitor import DiskMonitor
from blemish_server.metrics.stream_metrics import StreamMetrics
from blemish_server.scoring.frame_recorder import FrameRecorder
from blemish_server.scoring.inspection_feed import InspectionFeed
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.scorer import Scorer
from blemish_server.scoring.shadow import Agreement, Shadow

# Shorter than Prometheus's own timeout of ten seconds.
_TIMEOUT_S = 5.0


@dataclass(frozen=True, eq=False)
class StateCollector(Collector):
    """A collector that reads the server's state in its event loop, and the state of jobs from Redis."""

    loop: asyncio.AbstractEventLoop
    device: str
    models: ModelCache
    scorer: Scorer
    streams: StreamMetrics
    recorder: FrameRecorder
    shadow: Shadow
    feed: InspectionFeed
    dependencies: Dependencies
    disk: DiskMonitor
    jobs: JobStore
    workers: WorkerRegistry

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics. Call this in a thread other than the event loop's."""
        yield from asyncio.run_coroutine_threadsafe(self._server(), self.loop).result(_TIMEOUT_S)
        if self.dependencies.is_available("redis"):
            try:
                yield from self._redis()
            except Unavailable:
                return

    async def _server(self) -> list[Metric]:
        values = {"version": version("blemish"), "device": self.device}
        info = InfoMetricFamily("blemish", "The server.", value=values)

        loaded = GaugeMetricFamily(
            "blemish_loaded_bytes",
            "Weights, memory banks and indexes of each model version in memory.",
            labels=["model", "version", "runtime"],
        )
        queued = GaugeMetricFamily(
            "blemish_waiting_images",
            "Images queued for each model version.",
            labels=["model", "version"],
        )
        for model in self.models.loaded:
            labels = [model.ref.model, str(model.ref.version)]
            loaded.add_metric([*labels, model.detector.runtime.name], model.bytes)
            queued.add_metric(labels, model.batcher.queued)

        waiting_bytes = GaugeMetricFamily(
            "blemish_waiting_bytes",
            "Encoded images that are queued or in progress.",
            value=self.scorer.waiting_bytes,
        )
        recorded = CounterMetricFamily(
            "blemish_kept_frames", "Frames recorded for search.", value=self.recorder.recorded
        )
        lost = CounterMetricFamily(
            "blemish_unkept_frames",
            "Frames not recorded, because the queue was full or they could not be written.",
            value=self.recorder.dropped,
        )
        up = GaugeMetricFamily(
            "blemish_dependency_up", "Whether the last probe succeeded.", labels=["dependency"]
        )
        for state in self.dependencies.states:
            up.add_metric([state.name], state.available)
        full = GaugeMetricFamily(
            "blemish_disk_full",
            "Whether the disk of the store has less space than BLEMISH_MIN_FREE_BYTES.",
            value=bool(self.disk.shortage),
        )
        lines = CounterMetricFamily(
            "blemish_lost_log_lines", "Lines of the log that could not be written.", value=lost_lines()
        )
        shadowed = CounterMetricFamily(
            "blemish_shadowed_images",
            "Images scored by a shadow and by the version in production, by their verdicts.",
            labels=["model", "version", "beside", "outcome"],
        )
        for comparison in self.shadow.comparisons:
            pair = [str(ref.version) for ref in (comparison.shadow, comparison.production)]
            for agreement in Agreement:
                shadowed.add_metric(
                    [comparison.shadow.model, *pair, agreement], comparison.agreements[agreement]
                )
        return [
            *(info, loaded, queued, waiting_bytes, *self.streams.collect(), recorded, lost, shadowed, up),
            *(full, *self._disk_sizes(), lines, *self._watching()),
        ]

    def _watching(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "blemish_watchers", "Clients that watch inspections.", value=self.feed.watchers
        )
        yield CounterMetricFamily(
            "blemish_lost_watch_events",
            "Events that watchers did not receive, because they read too slowly.",
            value=self.feed.counts.lost,
        )
        yield CounterMetricFamily(
            "blemish_drawn_thumbnails", "Thumbnails drawn for watchers.", value=self.feed.counts.thumbnails
        )

    def _disk_sizes(self) -> Iterator[Metric]:
        if (space := self.disk.space) is None:
            return
        yield GaugeMetricFamily(
            "blemish_disk_free_bytes", "Free space on the disk of the store.", value=space.free_bytes
        )
        yield GaugeMetricFamily(
            "blemish_disk_total_bytes", "Size of the disk of the store.", value=space.total_bytes
        )

    def _redis(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily(
            "blemish_unfinished_jobs", "Jobs that have not ended.", labels=["kind", "state"]
        )
        counts = Counter((str(job.spec.kind), str(job.state)) for job in self.jobs.unfinished())
        for labels, count in sorted(counts.items()):
            jobs.add_metric(labels, count)
        yield jobs
        ended = CounterMetricFamily(
            "blemish_ended_jobs", "Jobs that ended, of all servers.", labels=["kind", "state"]
        )
        for labels, count in sorted(self.jobs.ended_counts().items()):
            ended.add_metric(labels, count)
        yield ended
        yield GaugeMetricFamily("blemish_workers", "Live workers.", value=len(self.workers.workers()))
