# SPDX-License-Identifier: Apache-2.0
"""The life of the server: start, warm up, serve, drain, stop."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import structlog
from grpc_health.v1.health import OVERALL_HEALTH

from blemish_core.platform.errors import Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.finder import Finder
from blemish_core.search.label_reader import LabelReader
from blemish_server.audit.recorder import AuditRecorder
from blemish_server.dependencies import NOT_SERVING, SERVING, Dependencies
from blemish_server.disk_monitor import DiskMonitor
from blemish_server.jobs.dispatch import Dispatcher
from blemish_server.jobs.job_events import JobEvents
from blemish_server.metrics.metrics_server import MetricsServer
from blemish_server.scoring.defect_namer import DefectNamer
from blemish_server.scoring.frame_recorder import FrameRecorder
from blemish_server.scoring.inspection_feed import InspectionFeed
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.shadow import Shadow
from blemish_server.search.index_migration import IndexMigrator
from blemish_server.servicers import inference
from blemish_server.transport.health import Health

_NAMES = ("Inspection", "Search", "Dataset", "Job", "Model", "Server", "Audit")
SERVICES = (*(f"blemish.v1.{name}Service" for name in _NAMES), inference.SERVICE)
# From the rejection of new calls to the closing of the port: clients move to another server meanwhile.
_DRAIN_S = 0.5
# Models that are not warm by then are loaded on first use.
_WARM_UP_TIMEOUT_S = 120.0
# Frames that are not recorded by then are lost.
_RECORD_TIMEOUT_S = 5.0
_READY_CHECK_EVERY_S = 0.5

log = structlog.get_logger(__name__)


class CannotServe(Exception):
    """A setting that the server cannot start with, such as a taken address or an unreadable file."""


@dataclass(frozen=True)
class Endpoints:
    """The addresses that the server listens on."""

    server: grpc.aio.Server
    address: str
    """HOST:PORT of the gRPC server, or its unix socket."""
    metrics: MetricsServer | None


@dataclass(frozen=True)
class Readiness:
    """The state that clients and load balancers see."""

    health: Health
    serving: asyncio.Event
    """Set while new work is accepted."""
    stopping: asyncio.Event
    """Set once new calls are rejected; streams end then."""


@dataclass(frozen=True)
class ScoringParts:
    """The parts of scoring that start and stop with the server."""

    models: ModelCache
    recorder: FrameRecorder
    shadow: Shadow
    namer: DefectNamer
    feed: InspectionFeed
    preload: tuple[ModelRef, ...]
    """Versions to load before the server is ready."""


@dataclass(frozen=True)
class Backends:
    """The parts that use Redis, Qdrant and the store."""

    dependencies: Dependencies
    disk: DiskMonitor
    job_events: JobEvents
    dispatcher: Dispatcher
    finder: Finder
    labels: LabelReader
    migration: IndexMigrator
    audit: AuditRecorder


@dataclass(frozen=True)
class App:
    """The running parts of the server, and the order in which they start and stop."""

    endpoints: Endpoints
    readiness: Readiness
    scoring: ScoringParts
    backends: Backends

    async def run(self, stop: asyncio.Event, grace_s: float, ready_file: Path | None = None) -> None:
        """Serve until ``stop`` is set, then let calls finish for up to ``grace_s``.

        Write ``ready_file`` once the server is ready and reaches Redis and Qdrant.
        """
        scoring, backends = self.scoring, self.backends
        running = (
            *(backends.job_events.run(), scoring.recorder.run()),
            *(scoring.shadow.run(), scoring.feed.run()),
        )
        tasks = [asyncio.create_task(each) for each in running]
        try:
            await self._start(stop, tasks, ready_file)
            await stop.wait()
            log.info("stopping", grace_s=grace_s)
            # Report the stop to clients and load balancers first: grpc's stop() is not graceful to handlers
            # that abort (grpc#37239), and it cancels calls that no handler has taken yet.
            self.readiness.serving.clear()
            await self.readiness.health.enter_graceful_shutdown()
            self._reject_calls()
            await asyncio.sleep(_DRAIN_S)
        finally:
            self._reject_calls()
            await self.endpoints.server.stop(grace_s)
            await scoring.recorder.drain(_RECORD_TIMEOUT_S)
            await backends.audit.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.endpoints.metrics is not None:
                await asyncio.to_thread(self.endpoints.metrics.close)
            scoring.namer.close()
            scoring.models.close()
            backends.dispatcher.close()
            await backends.job_events.close()
            await backends.finder.close()
            await backends.labels.close()
            log.info("stopped")

    async def _start(
        self, stop: asyncio.Event, tasks: list["asyncio.Task[None]"], ready_file: Path | None
    ) -> None:
        """Listen, load models, and report the server as ready, unless it is stopped meanwhile."""
        health, dependencies = self.readiness.health, self.backends.dependencies
        for service in (OVERALL_HEALTH, *SERVICES):
            await health.set(service, NOT_SERVING)
        await self.backends.disk.probe()  # before calls, which are answered while models are loaded
        await self.endpoints.server.start()
        if not await self._warm_up(stop):
            return
        await dependencies.probe()  # before serving, so that the first health report is correct
        if dependencies.refusal:
            raise CannotServe(dependencies.refusal)
        for service in set(SERVICES) - dependencies.services:
            await health.set(service, SERVING)
        tasks.append(asyncio.create_task(dependencies.run()))
        tasks.append(asyncio.create_task(self.backends.disk.run()))
        tasks.append(asyncio.create_task(self.backends.migration.run()))
        await health.set(OVERALL_HEALTH, SERVING)
        self.readiness.serving.set()
        log.info("serving", address=self.endpoints.address)
        if ready_file is not None:
            tasks.append(asyncio.create_task(self._report_ready(ready_file)))

    async def _report_ready(self, ready_file: Path) -> None:
        """Write the file once Redis and Qdrant are reachable in the way that the calls reach them."""
        while True:
            try:
                if self.backends.dependencies.all_available:
                    await asyncio.to_thread(self.backends.dispatcher.ping)
                    ready_file.touch()  # without content, for which a full disk has no space
                    return
            except (Unavailable, OSError) as error:
                log.warning("not ready yet", reason=str(error))
            await asyncio.sleep(_READY_CHECK_EVERY_S)

    def _reject_calls(self) -> None:
        """Reject new calls, and end those that watch for events."""
        self.readiness.stopping.set()
        self.backends.job_events.stop()

    async def _warm_up(self, stop: asyncio.Event) -> bool:
        """Load the models to preload. Return False if the server is stopped meanwhile."""
        warming = asyncio.create_task(self.scoring.models.warm_up(self.scoring.preload))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait(
            (warming, stopping), timeout=_WARM_UP_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        stopping.cancel()
        warming.cancel()
        await asyncio.gather(warming, stopping, return_exceptions=True)
        return not stop.is_set()
