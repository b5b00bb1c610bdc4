# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads: how calls end, what is judged and how long that takes, what comes in streams.

What happens is counted as it happens; what the server holds is read when Prometheus asks (``exposition``).
Names of calls are those of https://github.com/grpc-ecosystem/go-grpc-prometheus: its dashboards fit.
Labels have few values: models and versions, some hundred cameras, never callers or items.
``docs/guides/monitoring.md`` says what each is for.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from blemish.v1 import inspection_pb2 as pb
from blemish_server.scoring.frame_queue import FrameQueue
from blemish_server.scoring.scorer import Inspected

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# Of good frames as many have a p-value below each as it says, if they are like those calibrated by.
_P_VALUES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
LOW = 0.25
"""Up to here a p-value is low: so many of good frames have one."""
# Whoever makes up a name for each frame takes no more memory than this.
_MOST_CAMERAS = 256
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
_POLICIES = {
    pb.STREAM_POLICY_LATEST: "latest",
    pb.STREAM_POLICY_BLOCK: "block",
    pb.STREAM_POLICY_REJECT: "reject",
}

Ended = Callable[[str, float], None]
"""Takes the status of a call, and how many seconds it took."""


class ServerMetrics:
    """Counts; ``registry`` has all that Prometheus is told."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.streams = Streams()
        ProcessCollector(registry=registry)
        self._started = Counter("grpc_server_started", "Calls begun.", _CALL, registry=registry)
        self._handled = Counter(
            "grpc_server_handled", "Calls ended, by status.", (*_CALL, "grpc_code"), registry=registry
        )
        self._handling = Histogram(
            "grpc_server_handling_seconds",
            "How long calls took, streams included.",
            _CALL,
            buckets=_SECONDS,
            registry=registry,
        )
        self._inspections = Counter(
            "blemish_inspections", "Images judged, by verdict.", (*_VERSION, "verdict"), registry=registry
        )
        self._stages = Histogram(
            "blemish_inspection_seconds",
            "How long each image judged waited (queue), was decoded (decode) and was computed (inference).",
            (*_VERSION, "stage"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._p_values = Histogram(
            "blemish_p_value",
            "p-values of images judged: of good ones, uniform while they are like those calibrated by.",
            _VERSION,
            buckets=_P_VALUES,
            registry=registry,
        )
        self._by_cameras = Counter(
            "blemish_camera_inspections",
            "Images judged of each camera that has a name, by verdict.",
            ("camera", "verdict"),
            registry=registry,
        )
        self._low = Counter(
            "blemish_camera_low_p_values",
            f"Of them those with a p-value of {LOW:g} at most.",
            ("camera",),
            registry=registry,
        )
        self._refused = Counter(
            "blemish_refused_frames",
            "Frames of streams that were answered with a refusal, by its reason.",
            ("reason",),
            registry=registry,
        )
        # Looked up once: to find a count by its labels takes longer than to count.
        self._calls, self._versions = cache(self._call), cache(self._version)
        self._cameras: dict[str, _Camera] = {}

    def call_began(self, method: str, *, takes_stream: bool, sends_stream: bool) -> Ended:
        """Count a call of ``method`` (/package.Service/Method); what is returned takes its end."""
        call = self._calls(method, _KINDS[takes_stream, sends_stream])
        call.started.inc()

        def ended(status: str, seconds: float) -> None:
            call.handled(status).inc()
            call.handling.observe(seconds)

        return ended

    def judged(self, done: Inspected, camera: str = "") -> None:
        """Count an image as its caller is told of it, and as one of its camera's if that has a name."""
        version = self._versions(done.manifest.model, done.manifest.version)
        judge, score = done.calibration.calibration, done.outcome.score
        anomalous, p_value = judge.anomalous(score), judge.p_value(score)
        version.verdicts[anomalous].inc()
        version.p_values.observe(p_value)
        version.queue.observe(done.queue_s)
        version.decode.observe(done.decode_s)
        version.inference.observe(done.inference_s)
        if camera:
            its = self._camera(camera)
            its.verdicts[anomalous].inc()
            if p_value <= LOW:
                its.low.inc()

    def refused(self, reason: str) -> None:
        """Count a frame that has a refusal instead of a verdict."""
        self._refused.labels(reason).inc()

    def _call(self, method: str, kind: str) -> "_Call":
        _, service, name = method.split("/")
        labels = (kind, service, name)
        return _Call(
            self._started.labels(*labels),
            cache(lambda status: self._handled.labels(*labels, status)),
            self._handling.labels(*labels),
        )

    def _version(self, model: str, number: int) -> "_Version":
        labels = (model, str(number))
        return _Version(
            {anomalous: self._inspections.labels(*labels, word) for anomalous, word in _VERDICTS.items()},
            self._p_values.labels(*labels),
            *(self._stages.labels(*labels, stage) for stage in ("queue", "decode", "inference")),
        )

    def _camera(self, name: str) -> "_Camera":
        known = self._cameras
        if name not in known and len(known) >= _MOST_CAMERAS:
            name = _OTHERS
        if name not in known:
            verdicts = {
                anomalous: self._by_cameras.labels(name, word) for anomalous, word in _VERDICTS.items()
            }
            known[name] = _Camera(verdicts, self._low.labels(name))
        return known[name]


@dataclass(frozen=True)
class _Call:
    """The counts of one method."""

    started: Counter
    handled: Callable[[str], Counter]
    """By status."""
    handling: Histogram


@dataclass(frozen=True)
class _Version:
    """The counts of one model version."""

    verdicts: Mapping[bool, Counter]
    """By whether it is anomalous."""
    p_values: Histogram
    queue: Histogram
    decode: Histogram
    inference: Histogram


@dataclass(frozen=True)
class _Camera:
    """The counts of one camera."""

    verdicts: Mapping[bool, Counter]
    low: Counter


class Streams:
    """The streams that are open, and the frames of all there were."""

    def __init__(self) -> None:
        self._open: set[FrameQueue] = set()
        self._frames: Tally[tuple[str, str]] = Tally()
        """Of the streams that have ended: of a policy, by what became of them."""

    @contextmanager
    def opened(self, line: FrameQueue) -> Iterator[None]:
        """Count a stream and its frames, while it is open and after."""
        self._open.add(line)
        try:
            yield
        finally:
            self._open.remove(line)
            self._frames.update(_frames(line))

    def families(self) -> Iterator[Metric]:
        """What there is to tell; to be asked in the event loop, where nothing changes meanwhile."""
        frames = self._frames.copy()
        for line in self._open:
            frames.update(_frames(line))
        now = Tally(_POLICIES[line.policy] for line in self._open)
        streams = GaugeMetricFamily("blemish_streams", "Streams that are open.", labels=["policy"])
        for policy in _POLICIES.values():
            streams.add_metric([policy], now[policy])
        yield streams
        for fate, words in _FATES.items():
            family = CounterMetricFamily(f"blemish_{fate}_frames", words, labels=["policy"])
            for policy in _POLICIES.values():
                family.add_metric([policy], frames[policy, fate])
            yield family


_FATES = {
    "streamed": "Frames that came in streams.",
    "dropped": "Of them those that gave way to newer ones, and were named as dropped.",
    "rejected": "Of them those refused at once, as many as may be of their stream being under way.",
}


def _frames(line: FrameQueue) -> dict[tuple[str, str], int]:
    policy = _POLICIES[line.policy]
    counts = {"streamed": line.frames, "dropped": line.dropped, "rejected": line.rejected}
    return {(policy, fate): count for fate, count in counts.items()}
