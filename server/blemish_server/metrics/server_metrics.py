# SPDX-License-Identifier: Apache-2.0
"""Metrics of events, counted as they happen: calls and inspections.

The names of call metrics are those of https://github.com/grpc-ecosystem/go-grpc-prometheus, so its
dashboards can be used. Labels have few values: models, versions and some hundred cameras, but never callers
or items. ``state_collector`` reads the state of the server when Prometheus scrapes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

from blemish_core.platform.names import ModelRef
from blemish_core.search.labelled_items import Consensus
from blemish_server.metrics.activity import Activity
from blemish_server.metrics.stream_metrics import StreamMetrics
from blemish_server.scoring.inspection import Inspection

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_NAMING_SECONDS = (0.0001, 0.00025, 0.0005, *_SECONDS)
# The share of good images below each p-value equals the p-value, if they resemble the calibration images.
_P_VALUES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
LOW_P_VALUE = 0.25
"""Largest p-value that counts as low: this share of good images has one."""
# Bounds the memory of a client that invents a name for each frame.
_MAX_CAMERAS = 256
_OTHERS = "(others)"
_CALL = ("grpc_type", "grpc_service", "grpc_method")
_VERSION = ("model", "version")
_VERDICTS = {False: "normal", True: "anomalous"}
_KINDS = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}

Ended = Callable[[str, float], None]
"""Counts the end of a call, from its status and its duration in seconds."""


class ServerMetrics:
    """The metrics of one server. ``registry`` holds all that Prometheus reads."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.streams = StreamMetrics()
        self.activity = Activity()
        ProcessCollector(registry=registry)
        self._started = Counter("grpc_server_started", "Calls started.", _CALL, registry=registry)
        self._handled = Counter(
            "grpc_server_handled", "Calls ended, by status.", (*_CALL, "grpc_code"), registry=registry
        )
        self._handling = Histogram(
            "grpc_server_handling_seconds",
            "Duration of calls, streams included.",
            _CALL,
            buckets=_SECONDS,
            registry=registry,
        )
        self._inspections = Counter(
            "blemish_inspections", "Images scored, by verdict.", (*_VERSION, "verdict"), registry=registry
        )
        self._stages = Histogram(
            "blemish_inspection_seconds",
            "Time per image in the queue (queue), decoding (decode) and computing (inference).",
            (*_VERSION, "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._p_values = Histogram(
            "blemish_p_value",
            "P-values of images, uniform over good images that resemble the calibration images.",
            _VERSION,
            buckets=_P_VALUES,
            registry=registry,
        )
        self._by_cameras = Counter(
            "blemish_camera_inspections",
            "Images scored of each named camera, by verdict.",
            ("camera", "verdict"),
            registry=registry,
        )
        self._low = Counter(
            "blemish_camera_low_p_values",
            f"Images of each named camera with a p-value of at most {LOW_P_VALUE:g}.",
            ("camera",),
            registry=registry,
        )
        self._refused = Counter(
            "blemish_refused_frames",
            "Frames of streams that were refused, by reason.",
            ("reason",),
            registry=registry,
        )
        self._named = Counter(
            "blemish_defect_classes",
            "Anomalous images whose class was requested, by the consensus of labelled items.",
            (*_VERSION, "consensus"),
            registry=registry,
        )
        self._naming = Histogram(
            "blemish_defect_class_seconds",
            "Time that naming the class of a defect added to a response.",
            _VERSION,
            buckets=_NAMING_SECONDS,
            registry=registry,
        )
        self._label_reads = Counter(
            "blemish_label_reads",
            "Reads of the labelled items of a version, by outcome.",
            (*_VERSION, "outcome"),
            registry=registry,
        )
        self._label_reading = Histogram(
            "blemish_label_read_seconds",
            "Duration of reads of the labelled items of a version.",
            _VERSION,
            buckets=_SECONDS,
            registry=registry,
        )
        self._lost_audit_entries = Counter(
            "blemish_lost_audit_entries", "Audit entries that could not be written.", registry=registry
        )
        self._limited = Counter(
            "blemish_limited_calls",
            "Calls refused because a limit of their caller was used up, by limit.",
            ("limit",),
            registry=registry,
        )
        self._throttled = Counter(
            "blemish_throttled_messages",
            "Messages of streams that waited because a limit of their caller was used up, by limit.",
            ("limit",),
            registry=registry,
        )
        # Cached, because looking up a counter by its labels takes longer than counting.
        self._calls, self._versions = cache(self._call), cache(self._version)
        self._cameras: dict[str, _CameraMetrics] = {}

    def call_began(self, method: str, *, takes_stream: bool, sends_stream: bool) -> Ended:
        """Count a call of ``/package.Service/Method``. Return the function that counts its end."""
        call = self._calls(method, _KINDS[takes_stream, sends_stream])
        call.started.inc()

        def ended(status: str, seconds: float) -> None:
            call.handled(status).inc()
            call.handling.observe(seconds)

        return ended

    def observe(self, inspection: Inspection) -> None:
        """Count an inspection under its model version, and under its camera if that has a name."""
        version = self._versions(inspection.manifest.model, inspection.manifest.version)
        is_anomalous, p_value, timings = inspection.is_anomalous, inspection.p_value, inspection.timings
        version.verdicts[is_anomalous].inc()
        version.p_values.observe(p_value)
        version.queue.observe(timings.queue_s)
        version.decode.observe(timings.decode_s)
        version.inference.observe(timings.inference_s)
        if inspection.capture.camera:
            camera = self._camera(inspection.capture.camera)
            camera.verdicts[is_anomalous].inc()
            if p_value <= LOW_P_VALUE:
                camera.low.inc()

    def named(self, version: ModelRef, consensus: Consensus, seconds: float) -> None:
        """Count a request for a defect class, and the time that it added to the response."""
        labels = (version.model, str(version.version))
        self._named.labels(*labels, consensus).inc()
        self._naming.labels(*labels).observe(seconds)

    def labels_read(self, version: ModelRef, seconds: float, *, succeeded: bool) -> None:
        """Count a read of the labelled items of a version."""
        labels = (version.model, str(version.version))
        self._label_reads.labels(*labels, "succeeded" if succeeded else "failed").inc()
        self._label_reading.labels(*labels).observe(seconds)

    def call_limited(self, limit: str) -> None:
        """Count a call that was refused because of a limit of its caller."""
        self._limited.labels(limit).inc()

    def message_throttled(self, limit: str) -> None:
        """Count a message of a stream that waits because of a limit of its caller."""
        self._throttled.labels(limit).inc()

    def audit_entry_lost(self) -> None:
        """Count an entry of the audit log that could not be written."""
        self._lost_audit_entries.inc()

    def refused(self, reason: str) -> None:
        """Count a frame that was refused."""
        self._refused.labels(reason).inc()

    def _call(self, method: str, kind: str) -> "_CallMetrics":
        _, service, name = method.split("/")
        labels = (kind, service, name)
        return _CallMetrics(
            self._started.labels(*labels),
            cache(lambda status: self._handled.labels(*labels, status)),
            self._handling.labels(*labels),
        )

    def _version(self, model: str, number: int) -> "_VersionMetrics":
        labels = (model, str(number))
        return _VersionMetrics(
            {verdict: self._inspections.labels(*labels, word) for verdict, word in _VERDICTS.items()},
            self._p_values.labels(*labels),
            *(self._stages.labels(*labels, stage) for stage in ("queue", "decode", "inference")),
        )

    def _camera(self, name: str) -> "_CameraMetrics":
        known = self._cameras
        if name not in known and len(known) >= _MAX_CAMERAS:
            name = _OTHERS
        if name not in known:
            verdicts = {verdict: self._by_cameras.labels(name, word) for verdict, word in _VERDICTS.items()}
            known[name] = _CameraMetrics(verdicts, self._low.labels(name))
        return known[name]


@dataclass(frozen=True)
class _CallMetrics:
    """The metrics of one method."""

    started: Counter
    handled: Callable[[str], Counter]
    """Returns the counter of a status."""
    handling: Histogram


@dataclass(frozen=True)
class _VersionMetrics:
    """The metrics of one model version."""

    verdicts: Mapping[bool, Counter]
    """Counters by whether the image is anomalous."""
    p_values: Histogram
    queue: Histogram
    decode: Histogram
    inference: Histogram


@dataclass(frozen=True)
class _CameraMetrics:
    """The metrics of one camera."""

    verdicts: Mapping[bool, Counter]
    """Counters by whether the image is anomalous."""
    low: Counter
