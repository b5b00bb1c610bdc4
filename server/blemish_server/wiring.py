# SPDX-License-Identifier: Apache-2.0
"""The composition root: builds the server's objects from its settings."""

import asyncio
from dataclasses import dataclass, replace

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tritonclient.grpc import service_pb2_grpc

from blemish.v1 import (
    audit_pb2_grpc,
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
from blemish_core.platform.redis_check import RedisCheck
from blemish_core.platform.unix_socket import SocketUnusable
from blemish_core.search.dataset_additions import DatasetAdditions
from blemish_core.search.finder import Finder
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.item_images import ItemImages
from blemish_core.search.label_reader import LabelReader
from blemish_core.search.search_index import SearchIndex
from blemish_core.settings import resolve_device
from blemish_server.app import SERVICES, App, Backends, CannotServe, Endpoints, Readiness, ScoringParts
from blemish_server.audit.log import AuditLog
from blemish_server.audit.recorder import AuditRecorder
from blemish_server.auth.authenticator import Authenticator
from blemish_server.auth.limits import CallerLimiter
from blemish_server.converters.maps import map_pixels
from blemish_server.dependencies import Dependencies, Dependency
from blemish_server.disk_monitor import DiskMonitor
from blemish_server.jobs.dispatch import Dispatcher
from blemish_server.jobs.job_events import JobEvents
from blemish_server.metrics.metrics_server import MetricsServer
from blemish_server.metrics.server_metrics import ServerMetrics
from blemish_server.metrics.state_collector import StateCollector
from blemish_server.scoring.defect_namer import DefectNamer
from blemish_server.scoring.frame_recorder import FrameRecorder, FrameRetention
from blemish_server.scoring.inspection_feed import InspectionFeed
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.pipeline import ScoringPipeline
from blemish_server.scoring.scorer import Scorer
from blemish_server.scoring.shadow import Shadow
from blemish_server.search.index_migration import IndexMigrator
from blemish_server.servicers.audit import AuditServicer
from blemish_server.servicers.datasets import DatasetServicer
from blemish_server.servicers.inference import InferenceServicer
from blemish_server.servicers.inspection import InspectionServicer
from blemish_server.servicers.jobs import JobServicer
from blemish_server.servicers.models import ModelServicer
from blemish_server.servicers.search import SearchServicer
from blemish_server.servicers.server import ServerServicer
from blemish_server.settings import ServerSettings
from blemish_server.transport.auditing import CallAuditor
from blemish_server.transport.connections import StreamLifetime, connection_options
from blemish_server.transport.health import Health
from blemish_server.transport.interceptor import CallInterceptor
from blemish_server.transport.shared_memory import SharedMemory
from blemish_server.transport.tls import Certificate, UnusableCertificate

_HEALTH = "grpc.health.v1.Health"
_LOOKAHEAD_BYTES = 1 << 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Stores:
    """The places where data is kept: files, Redis and Qdrant."""

    datasets: DatasetStore
    models: ModelStore
    frames: FrameStore
    audit: AuditLog
    jobs: JobStore
    workers: WorkerRegistry
    index: SearchIndex
    finder: Finder
    labels: LabelReader

    @classmethod
    def open(cls, settings: ServerSettings) -> "_Stores":
        qdrant = (
            settings.qdrant_url,
            settings.qdrant_grpc_port,
            settings.qdrant_api_key,
            settings.qdrant_proxy,
        )
        index = SearchIndex.connect(*qdrant)
        models = ModelStore(settings.models)
        models.discard_stale_imports()
        return cls(
            DatasetStore(settings.datasets, settings.image_limits),
            models,
            FrameStore(settings.frames),
            AuditLog(settings.audit),
            JobStore.connect(settings.redis_url),
            WorkerRegistry.connect(settings.redis_url),
            index,
            Finder.connect(*qdrant),
            LabelReader.connect(*qdrant),
        )


@dataclass(frozen=True)
class _Scoring:
    """The parts that score images."""

    device: str
    models: ModelCache
    scorer: Scorer
    recorder: FrameRecorder
    shadow: Shadow
    metrics: ServerMetrics
    namer: DefectNamer
    feed: InspectionFeed
    pipeline: ScoringPipeline

    @classmethod
    def build(cls, settings: ServerSettings, stores: _Stores, disk: DiskMonitor) -> "_Scoring":
        device, limits = resolve_device(settings.device), settings.image_limits
        policy = settings.batching(device)
        models = ModelCache(
            stores.models,
            limits,
            device=device,
            runtime=replace(settings.runtime_choice, lanes=policy.lanes),
            policy=policy,
            budget_bytes=settings.max_loaded_bytes,
        )
        scorer = Scorer(models, settings.max_waiting_bytes)
        retention = FrameRetention(settings.keep_frames, settings.keep_frames_days)
        recorder = FrameRecorder(
            stores.index, stores.frames, limits, retention, stores.models.has, lambda: disk.shortage
        )
        shadow = Shadow(stores.models, models, scorer, recorder, limits)
        metrics = ServerMetrics()
        namer = DefectNamer(stores.labels.read, metrics)
        feed = InspectionFeed(metrics.activity, limits, settings.max_watchers)
        pipeline = ScoringPipeline(scorer, metrics, recorder, shadow, namer, feed)
        return cls(device, models, scorer, recorder, shadow, metrics, namer, feed, pipeline)


def build_app(settings: ServerSettings) -> App:
    """Build the server and bind its addresses without serving yet. Call this in the event loop.

    Raises:
        CannotServe: if an address cannot be bound, or the access file or the certificate cannot be read.
    """
    try:
        authenticator = Authenticator(settings.access_file)
        certificate = _certificate(settings)
    except (BlemishError, UnusableCertificate) as error:
        raise CannotServe(str(error)) from error
    stores = _Stores.open(settings)
    stopping = asyncio.Event()
    readiness = Readiness(Health(stopping), asyncio.Event(), stopping)
    disk = DiskMonitor(settings.disk, readiness.health)
    scoring = _Scoring.build(settings, stores, disk)
    redis = RedisCheck.connect(settings.redis_url)
    dependencies = Dependencies(
        (
            Dependency("redis", redis.ping, ("blemish.v1.JobService",), lambda: redis.warnings),
            Dependency("qdrant", stores.index.ping, ("blemish.v1.SearchService",)),
        ),
        readiness.health,
    )
    limiter = CallerLimiter(scoring.metrics.call_limited, scoring.metrics.message_throttled)
    job_events = JobEvents(stores.jobs, settings.redis_url)
    dispatcher = Dispatcher(settings.redis_url)
    jobs = JobServicer(
        stores.jobs,
        stores.workers,
        job_events,
        dispatcher,
        stores.datasets,
        stores.frames,
        stores.models,
        settings.weights,
        settings.image_limits,
        limiter,
        disk,
    )
    audit = AuditRecorder(stores.audit, scoring.metrics.audit_entry_lost)
    interceptor = CallInterceptor(
        authenticator, limiter, CallAuditor(audit), scoring.metrics, stopping.is_set
    )
    server = _grpc_server(settings, interceptor)
    _add_servicers(server, settings, stores, scoring, readiness, dependencies, disk, jobs)
    address = _bind(server, settings, certificate)
    _warn_of_open_access(settings)
    state = StateCollector(
        asyncio.get_running_loop(),
        scoring.device,
        scoring.models,
        scoring.scorer,
        scoring.metrics.streams,
        scoring.recorder,
        scoring.shadow,
        scoring.feed,
        dependencies,
        disk,
        stores.jobs,
        stores.workers,
    )
    return App(
        Endpoints(server, address, _metrics_server(settings.metrics_listen, scoring.metrics, state)),
        readiness,
        ScoringParts(
            scoring.models,
            scoring.recorder,
            scoring.shadow,
            scoring.namer,
            scoring.feed,
            preload=tuple(stores.models.in_production()) if settings.preload else (),
        ),
        Backends(
            dependencies,
            disk,
            job_events,
            dispatcher,
            stores.finder,
            stores.labels,
            IndexMigrator(stores.models, stores.index, jobs.create_migration_job),
            audit,
        ),
    )


def _grpc_server(settings: ServerSettings, interceptor: CallInterceptor) -> grpc.aio.Server:
    return grpc.aio.server(
        interceptors=[interceptor],
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.so_reuseport", 0),  # a taken port is an error, not a second server
            # Bounds the frames that a stream sends ahead of its reader. By default gRPC widens this window
            # while responses are slow, to tens of MiB for each camera that reads no responses.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", _LOOKAHEAD_BYTES),
            *connection_options(settings),
        ],
    )


def _add_servicers(
    server: grpc.aio.Server,
    settings: ServerSettings,
    stores: _Stores,
    scoring: _Scoring,
    readiness: Readiness,
    dependencies: Dependencies,
    disk: DiskMonitor,
    jobs: JobServicer,
) -> None:
    limits, pipeline = settings.image_limits, scoring.pipeline
    removal = Removal(stores.datasets, stores.models, stores.index, stores.frames, stores.jobs)
    images = ItemImages(stores.datasets, stores.frames)
    pixels = map_pixels(settings.max_message_bytes)
    lifetime = StreamLifetime.of(settings, readiness.stopping)
    inspection_pb2_grpc.add_InspectionServiceServicer_to_server(
        InspectionServicer(pipeline, scoring.feed, scoring.metrics, lifetime, settings.max_message_bytes),
        server,
    )
    search_pb2_grpc.add_SearchServiceServicer_to_server(
        SearchServicer(
            scoring.scorer,
            stores.models,
            stores.index,
            stores.finder,
            images,
            limits,
            on_label=scoring.namer.expire,
        ),
        server,
    )
    dataset_pb2_grpc.add_DatasetServiceServicer_to_server(
        DatasetServicer(
            stores.datasets,
            removal,
            settings.import_roots,
            limits,
            stores.models,
            stores.index,
            DatasetAdditions(stores.datasets, stores.index, images, limits),
        ),
        server,
    )
    job_pb2_grpc.add_JobServiceServicer_to_server(jobs, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(
        ModelServicer(
            stores.models,
            stores.datasets,
            scoring.models,
            removal,
            scoring.shadow,
            stores.index,
            settings.max_loaded_bytes,
        ),
        server,
    )
    server_pb2_grpc.add_ServerServiceServicer_to_server(
        ServerServicer(
            settings, scoring.device, scoring.models, dependencies, disk, scoring.metrics.activity
        ),
        server,
    )
    audit_pb2_grpc.add_AuditServiceServicer_to_server(AuditServicer(stores.audit), server)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
        InferenceServicer(
            pipeline,
            stores.models,
            scoring.models,
            readiness.serving.is_set,
            lifetime,
            pixels,
            SharedMemory(enabled=settings.shared_memory, max_bytes=settings.max_message_bytes),
        ),
        server,
    )
    health_pb2_grpc.add_HealthServicer_to_server(readiness.health, server)
    reflection.enable_server_reflection((*SERVICES, _HEALTH, reflection.SERVICE_NAME), server)


def _bind(server: grpc.aio.Server, settings: ServerSettings, certificate: Certificate | None) -> str:
    """Bind the server's address and return it with its real port, or as given for a unix socket."""

    def bind() -> int:
        if certificate is not None:
            return server.add_secure_port(settings.listen, certificate.credentials())
        return server.add_insecure_port(settings.listen)

    try:
        if (unix_socket := settings.unix_socket) is not None:
            with unix_socket.reserved(settings.socket_permissions):
                bind()
            return str(unix_socket)
        port = bind()
    except SocketUnusable as error:
        raise CannotServe(f"{error} (BLEMISH_LISTEN)") from error
    except RuntimeError as error:
        raise CannotServe(
            f"cannot listen on {settings.listen}: the address is taken or not of this machine; choose "
            "another with BLEMISH_LISTEN (port 0 takes a free one)"
        ) from error
    return f"{_host(settings)}:{port}"


def _metrics_server(listen: str, metrics: ServerMetrics, state: StateCollector) -> MetricsServer | None:
    if not listen:
        return None
    metrics.registry.register(state)
    try:
        server = MetricsServer(listen, metrics.registry)
    except (OSError, OverflowError) as error:
        raise CannotServe(
            f"cannot listen on {listen}: {error}; choose another with BLEMISH_METRICS_LISTEN (port 0 takes "
            "a free one)"
        ) from error
    log.info("metrics", address=f"http://{server.address}/metrics")
    return server


def _certificate(settings: ServerSettings) -> Certificate | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Certificate(settings.tls_certificate, settings.tls_key)


def _warn_of_open_access(settings: ServerSettings) -> None:
    """Log a warning if other machines can reach the server without authentication or encryption."""
    host = _host(settings)
    if settings.is_local:
        return
    if settings.access_file is None:
        log.warning(
            "authentication is disabled on a non-loopback address; set BLEMISH_ACCESS_FILE", host=host
        )
    elif settings.tls_certificate is None:
        log.warning("tokens are sent unencrypted; set BLEMISH_TLS_CERTIFICATE", host=host)


def _host(settings: ServerSettings) -> str:
    return settings.listen.rpartition(":")[0]
