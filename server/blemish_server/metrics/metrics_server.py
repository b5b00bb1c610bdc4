# SPDX-License-Identifier: Apache-2.0
"""Where Prometheus reads: an address of its own, and what the server holds at the moment it is asked."""

import asyncio
from collections import Counter as Tally
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from wsgiref.simple_server import WSGIServer

import structlog
from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from blemish_core.jobs.store import JobStore
from blemish_core.jobs.worker_registry import WorkerRegistry
from blemish_core.platform.errors import Unavailable
from blemish_server.dependencies import Dependencies
from blemish_server.metrics.metrics import Streams
from blemish_server.scoring.frame_recorder import FrameRecorder
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.scorer import Scorer
from blemish_server.scoring.shadow import Outcome, Shadow

# An event loop that does not come to it for so long has other troubles; Prometheus gives up after ten.
_WITHIN_S = 5.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, eq=False)
class Held(Collector):
    """What the server holds, read in its event loop; and of jobs what Redis says."""

    loop: asyncio.AbstractEventLoop
    device: str
    models: ModelCache
    inspector: Scorer
    streams: Streams
    keeper: FrameRecorder
    shadow: Shadow
    dependencies: Dependencies
    jobs: JobStore
    staff: WorkerRegistry

    def collect(self) -> Iterator[Metric]:
        """Tell of all of it, from a thread that is not the event loop's."""
        yield from asyncio.run_coroutine_threadsafe(self._own(), self.loop).result(_WITHIN_S)
        if any(known.name == "redis" and known.available for known in self.dependencies.states):
            try:
                yield from self._in_redis()
            except Unavailable:
                return  # it has gone just now

    async def _own(self) -> list[Metric]:
        held = {"version": version("blemish"), "device": self.device}
        info = InfoMetricFamily("blemish", "The server.", value=held)

        loaded = GaugeMetricFamily(
            "blemish_loaded_bytes",
            "Weights, banks and indexes of each model version in memory.",
            labels=["model", "version", "runtime"],
        )
        waiting = GaugeMetricFamily(
            "blemish_waiting_images",
            "Images that wait for their turn at each model version.",
            labels=["model", "version"],
        )
        for model in self.models.loaded:
            labels = [model.ref.model, str(model.ref.version)]
            loaded.add_metric([*labels, model.detector.runtime.name], model.bytes)
            waiting.add_metric(labels, model.batcher.waiting)

        held_bytes = GaugeMetricFamily(
            "blemish_waiting_bytes",
            "Encoded images that wait or are worked on.",
            value=self.inspector.waiting_bytes,
        )
        kept = CounterMetricFamily(
            "blemish_kept_frames", "Frames that were kept for search.", value=self.keeper.kept
        )
        lost = CounterMetricFamily(
            "blemish_unkept_frames",
            "Frames that were to be kept and found no room, or could not be written.",
            value=self.keeper.dropped,
        )
        up = GaugeMetricFamily(
            "blemish_dependency_up", "Whether it answered when last looked at.", labels=["dependency"]
        )
        for known in self.dependencies.states:
            up.add_metric([known.name], known.available)
        shadowed = CounterMetricFamily(
            "blemish_shadowed_images",
            "Images that a shadow judged after the version in production, by what they said.",
            labels=["model", "version", "beside", "outcome"],
        )
        for comparison in self.shadow.comparisons:
            pair = [str(ref.version) for ref in (comparison.shadow, comparison.production)]
            for outcome in Outcome:
                shadowed.add_metric([comparison.shadow.model, *pair, outcome], comparison.outcomes[outcome])
        return [info, loaded, waiting, held_bytes, *self.streams.families(), kept, lost, shadowed, up]

    def _in_redis(self) -> Iterator[Metric]:
        jobs = GaugeMetricFamily(
            "blemish_unfinished_jobs", "Jobs that have not ended.", labels=["kind", "state"]
        )
        counts = Tally((str(job.spec.kind), str(job.state)) for job in self.jobs.unfinished())
        for what, count in sorted(counts.items()):
            jobs.add_metric(what, count)
        yield jobs
        ended = CounterMetricFamily(
            "blemish_ended_jobs", "Jobs that ended, ever, of all servers.", labels=["kind", "state"]
        )
        for what, count in sorted(self.jobs.ended_counts().items()):
            ended.add_metric(what, count)
        yield ended
        yield GaugeMetricFamily(
            "blemish_workers", "Workers that are there.", value=len(self.staff.workers())
        )


class MetricsServer:
    """Answers ``GET /metrics`` with what a registry has, in threads of its own."""

    def __init__(self, listen: str, registry: CollectorRegistry) -> None:
        """Listen on HOST:PORT from now on; port 0 takes a free one.

        Raises:
            OSError: if the address is taken, or none of this machine's.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they left it so
        host, _, port = listen.rpartition(":")
        self._server: WSGIServer
        self._server, self._thread = start_http_server(int(port), host.strip("[]"), registry)
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
