# SPDX-License-Identifier: Apache-2.0
"""The composition root: builds the server's objects, runs them, stops them."""

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import OVERALL_HEALTH
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2_grpc

from blemish.v1 import (
    dataset_pb2_grpc,
    inspection_pb2_grpc,
    job_pb2_grpc,
    model_pb2_grpc,
    search_pb2_grpc,
    server_pb2_grpc,
)
from blemish_core.datasets import DatasetStore
from blemish_core.jobs.removal import Removal
from blemish_core.jobs.store import JobStore
from blemish_core.jobs.worker_registry import WorkerRegistry
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError
from blemish_core.platform.names import ModelRef
from blemish_core.search.finder import Finder
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.item_images import ItemImages
from blemish_core.search.search_index import SearchIndex
from blemish_core.settings import resolve_device
from blemish_server.auth.authenticator import Authenticator
from blemish_server.dependencies import NOT_SERVING, SERVING, Dependencies, Dependency
from blemish_server.jobs.dispatch import Dispatcher
from blemish_server.jobs.job_events import JobEvents
from blemish_server.metrics.metrics import ServerMetrics
from blemish_server.metrics.metrics_server import Held, MetricsServer
from blemish_server.scoring.frame_recorder import FrameRecorder, Retention
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.scorer import Scorer
from blemish_server.scoring.shadow import Shadow
from blemish_server.search.index_migration import IndexMigrator
from blemish_server.servicers import inference
from blemish_server.servicers.datasets import DatasetServicer
from blemish_server.servicers.inference import InferenceServicer
from blemish_server.servicers.inspection import InspectionServicer
from blemish_server.servicers.jobs import JobServicer
from blemish_server.servicers.models import ModelServicer
from blemish_server.servicers.search import SearchServicer
from blemish_server.servicers.server import ServerServicer
from blemish_server.settings import ServerSettings
from blemish_server.transport.health import Health
from blemish_server.transport.interceptor import CallInterceptor
from blemish_server.transport.tls import Certificate, UnusableCertificate

_OURS = ("Inspection", "Search", "Dataset", "Job", "Model", "Server")
SERVICES = (*(f"blemish.v1.{name}Service" for name in _OURS), inference.SERVICE)
_HEALTH = "grpc.health.v1.Health"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# Blocking work: decoding, files, Redis, Qdrant. More wait in the loop, not in threads.
_THREADS = 32
_SENT_AHEAD_BYTES = 1 << 20
# From when new calls are refused until the port is closed: callers hear it and look elsewhere.
_LEAVE_WITHIN_S = 0.5
# What is not warm by then loads when it is asked for.
_WARM_WITHIN_S = 120.0
# Frames still to be kept when the server ends; those left are not.
_WRITE_WITHIN_S = 5.0

log = structlog.get_logger(__name__)


class CannotServe(Exception):
    """What it was told to serve on, or whom to serve, cannot be used."""


@dataclass(frozen=True)
class App:
    """Everything that runs, and in which order it ends."""

    server: grpc.aio.Server
    address: str
    health: Health
    models: ModelCache
    feed: JobEvents
    dispatcher: Dispatcher
    keeper: FrameRecorder
    shadow: Shadow
    finder: Finder
    migration: IndexMigrator
    dependencies: Dependencies
    exposition: MetricsServer | None
    preload: tuple[ModelRef, ...]
    """What is to be warm before health says SERVING."""
    serving: asyncio.Event
    """Set while new work is welcome."""
    ending: asyncio.Event
    """Set when new calls are refused; tells streams to end."""

    async def run(self, stop: asyncio.Event, grace_s: float, ready_file: Path | None = None) -> None:
        """Serve until ``stop``, then let calls end for up to ``grace_s``; ``ready_file`` says so."""
        running = (self.feed.run(), self.keeper.run(), self.shadow.run())
        background = [asyncio.create_task(each) for each in running]
        try:
            for service in (OVERALL_HEALTH, *SERVICES):
                await self.health.set(service, NOT_SERVING)
            await self.server.start()
            if await self._warm(stop):
                # A look first, so that health is true from the start.
                await self.dependencies.look()
                for service in set(SERVICES) - self.dependencies.services:
                    await self.health.set(service, SERVING)
                background.append(asyncio.create_task(self.dependencies.run()))
                background.append(asyncio.create_task(self.migration.run()))
                await self.health.set(OVERALL_HEALTH, SERVING)
                self.serving.set()
                log.info("serving", address=self.address)
                if ready_file is not None:
                    ready_file.write_text("ready\n")
                await stop.wait()
            log.info("stopping", grace_s=grace_s)
            # stop() is not graceful to handlers that abort (grpc#37239), and calls that have come and not
            # been taken yet it cancels. So first tell balancers and callers to go away.
            self.serving.clear()
            await self.health.enter_graceful_shutdown()
            self._let_go()
            await asyncio.sleep(_LEAVE_WITHIN_S)
        finally:
            self._let_go()
            await self.server.stop(grace_s)
            await self.keeper.drain(_WRITE_WITHIN_S)
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            if self.exposition is not None:
                await asyncio.to_thread(self.exposition.close)
            self.models.close()
            self.dispatcher.close()
            await self.feed.close()
            await self.finder.close()
            log.info("stopped")

    def _let_go(self) -> None:
        """Refuse new calls, and end those that would last for as long as there is something to tell."""
        self.ending.set()
        self.feed.end()

    async def _warm(self, stop: asyncio.Event) -> bool:
        """Load what is to be warm; False if it is time to stop before."""
        warming = asyncio.create_task(self.models.warm(self.preload))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((warming, stopping), timeout=_WARM_WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        warming.cancel()
        await asyncio.gather(warming, stopping, return_exceptions=True)
        return not stop.is_set()


def build(settings: ServerSettings) -> App:
    """Build the server and bind its address; nothing runs yet. Call within the event loop.

    Raises:
        CannotServe: if the address cannot be bound, or callers or certificate cannot be read.
    """
    try:
        authenticator = Authenticator(settings.access_file)
        certificate = _certificate(settings)
    except (BlemishError, UnusableCertificate) as error:
        raise CannotServe(str(error)) from error
    device = resolve_device(settings.device)
    limits = settings.image_limits
    datasets = DatasetStore(settings.datasets, limits)
    store = ModelStore(settings.models)
    store.discard_stale_imports()
    jobs, staff = JobStore.connect(settings.redis_url), WorkerRegistry.connect(settings.redis_url)
    qdrant = (settings.qdrant_url, settings.qdrant_grpc_port, settings.qdrant_api_key)
    index = SearchIndex.connect(*qdrant)
    finder = Finder.connect(*qdrant)
    policy = settings.batching(device)
    models = ModelCache(
        store,
        limits,
        device=device,
        runtime=replace(settings.runtime_choice, lanes=policy.lanes),
        policy=policy,
        budget_bytes=settings.max_loaded_bytes,
    )
    inspector = Scorer(models, settings.max_waiting_bytes)
    frames = FrameStore(settings.frames)
    retention = Retention(settings.keep_frames, settings.keep_frames_days)
    keeper = FrameRecorder(index, frames, limits, retention, store.has)
    shadow = Shadow(store, models, inspector, keeper, limits)
    removal = Removal(datasets, store, index, frames, jobs)
    feed = JobEvents(jobs, settings.redis_url)
    dispatcher = Dispatcher(settings.redis_url)
    serving, ending = asyncio.Event(), asyncio.Event()
    health = Health(ending)
    dependencies = Dependencies(
        (
            Dependency("redis", jobs.ping, ("blemish.v1.JobService",)),
            Dependency("qdrant", index.ping, ("blemish.v1.SearchService",)),
        ),
        health,
    )

    monitor = ServerMetrics()
    server = grpc.aio.server(
        interceptors=[CallInterceptor(authenticator, monitor, ending.is_set)],
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.so_reuseport", 0),  # a taken port is an error, not a second server
            # What a stream sends ahead of its reader lies here. Left to itself gRPC widens that with the
            # time that answers take, to tens of MiB for each camera that reads no answers. This much keeps
            # a gigabit line full over 8 ms there and back.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", _SENT_AHEAD_BYTES),
            # Clients may look whether a quiet stream still stands.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ],
    )
    inspection_pb2_grpc.add_InspectionServiceServicer_to_server(
        InspectionServicer(inspector, keeper, shadow, monitor, ending), server
    )
    search_pb2_grpc.add_SearchServiceServicer_to_server(
        SearchServicer(inspector, store, index, finder, ItemImages(datasets, frames), limits), server
    )
    dataset_pb2_grpc.add_DatasetServiceServicer_to_server(
        DatasetServicer(datasets, removal, settings.import_roots, limits.max_bytes), server
    )
    job_servicer = JobServicer(jobs, staff, feed, dispatcher, datasets, frames, store)
    job_pb2_grpc.add_JobServiceServicer_to_server(job_servicer, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelServicer(store, models, removal, shadow, settings.max_loaded_bytes), server
    )
    server_pb2_grpc.add_ServerServiceServicer_to_server(
        ServerServicer(settings, device, models, dependencies), server
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        InferenceServicer(inspector, store, models, shadow, monitor, serving.is_set, ending), server
    )
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    reflection.enable_server_reflection((*SERVICES, _HEALTH, reflection.SERVICE_NAME), server)
    host = settings.listen.rpartition(":")[0]
    try:
        if certificate is not None:
            port = server.add_secure_port(settings.listen, certificate.credentials())
        else:
            port = server.add_insecure_port(settings.listen)
    except RuntimeError as error:
        raise CannotServe(
            f"cannot listen on {settings.listen}: it is taken, or no address of this machine; choose "
            "another with BLEMISH_LISTEN (port 0 takes a free one)"
        ) from error
    _warn_of_strangers(settings, host)
    held = Held(
        asyncio.get_running_loop(),
        device,
        models,
        inspector,
        monitor.streams,
        keeper,
        shadow,
        dependencies,
        jobs,
        staff,
    )
    return App(
        server=server,
        address=f"{host}:{port}",
        health=health,
        models=models,
        feed=feed,
        dispatcher=dispatcher,
        keeper=keeper,
        shadow=shadow,
        finder=finder,
        migration=IndexMigrator(store, index, job_servicer.create_migration_job),
        dependencies=dependencies,
        exposition=_exposition(settings.metrics_listen, monitor, held),
        preload=tuple(store.in_production()) if settings.preload else (),
        serving=serving,
        ending=ending,
    )


def _exposition(listen: str, monitor: ServerMetrics, held: Held) -> MetricsServer | None:
    if not listen:
        return None
    monitor.registry.register(held)
    try:
        exposition = MetricsServer(listen, monitor.registry)
    except (OSError, OverflowError) as error:
        raise CannotServe(
            f"cannot listen on {listen}: {error}; choose another with BLEMISH_METRICS_LISTEN (port 0 takes "
            "a free one)"
        ) from error
    log.info("metrics", address=f"http://{exposition.address}/metrics")
    return exposition


def _certificate(settings: ServerSettings) -> Certificate | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_certificate, settings.tls_key)


def _warn_of_strangers(settings: ServerSettings, host: str) -> None:
    """Say what others than this machine can do, if it is more than they should."""
    if host in _LOOPBACK:
        return
    if settings.access_file is None:
        log.warning("whoever reaches this address may do everything: set BLEMISH_ACCESS_FILE", host=host)
    elif settings.tls_certificate is None:
        log.warning("tokens can be read on their way here: set BLEMISH_TLS_CERTIFICATE", host=host)


async def serve(settings: ServerSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="blocking"))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = build(settings)
    await app.run(stop, settings.grace_s, settings.ready_file)
