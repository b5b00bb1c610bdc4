# SPDX-License-Identifier: Apache-2.0
"""Metrics of the server's state."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest
from prometheus_client import CollectorRegistry
from tests.support.metrics import Samples, scrape, value

from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.store import JobStore
from blemish_core.jobs.worker_registry import WorkerRegistry
from blemish_core.platform.disk import DiskSpace
from blemish_core.platform.errors import Unavailable
from blemish_core.platform.names import ModelRef
from blemish_server.dependencies import Dependencies, DependencyState
from blemish_server.disk_monitor import DiskMonitor
from blemish_server.metrics.activity import Activity
from blemish_server.metrics.state_collector import StateCollector
from blemish_server.metrics.stream_metrics import StreamMetrics
from blemish_server.scoring.frame_recorder import FrameRecorder
from blemish_server.scoring.inspection_feed import InspectionFeed
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.scorer import Scorer
from blemish_server.scoring.shadow import Agreement, Shadow, ShadowComparison

COMPARISON = ShadowComparison(ModelRef("tile", 3), ModelRef("tile", 4))
COMPARISON.agreements.update({Agreement.BOTH_ANOMALOUS: 4, Agreement.ONLY_SHADOW: 2})


@dataclass
class FakeRuntime:
    name: str = "openvino"


@dataclass
class FakeDetector:
    runtime: FakeRuntime = field(default_factory=FakeRuntime)


@dataclass
class FakeBatcher:
    queued: int = 7


@dataclass
class FakeModel:
    ref: ModelRef = COMPARISON.production
    detector: FakeDetector = field(default_factory=FakeDetector)
    bytes: int = 1000
    batcher: FakeBatcher = field(default_factory=FakeBatcher)


@dataclass
class FakeScoring:
    """The parts of scoring, with fixed counts."""

    loaded: list[FakeModel] = field(default_factory=lambda: [FakeModel()])
    waiting_bytes: int = 4096
    recorded: int = 5
    dropped: int = 2
    comparisons: list[ShadowComparison] = field(default_factory=lambda: [COMPARISON])


@dataclass
class FakeDependencies:
    """Dependencies in a fixed state."""

    redis: bool

    @property
    def states(self) -> list[DependencyState]:
        return [DependencyState("redis", self.redis, ""), DependencyState("qdrant", False, "refused")]

    def is_available(self, name: str) -> bool:
        return self.redis and name == "redis"


@dataclass
class FakeDisk:
    """A disk that is nearly full."""

    space: DiskSpace = field(default_factory=lambda: DiskSpace(500, 8000))
    shortage: str = "it has 500 B free; free some space"


@dataclass
class FakeSpec:
    kind: str


@dataclass
class FakeJob:
    spec: FakeSpec
    state: str


class FakeRedis:
    """Jobs and workers, and the number of queries."""

    def __init__(self, *, lost: bool = False) -> None:
        self._lost = lost
        self.queries = 0

    def unfinished(self) -> list[FakeJob]:
        self.queries += 1
        if self._lost:
            raise Unavailable("the connection was lost", dependency="redis")
        jobs = [("train", "queued"), ("train", "running"), ("train", "queued"), ("embed", "queued")]
        return [FakeJob(FakeSpec(kind), state) for kind, state in jobs]

    def ended_counts(self) -> dict[tuple[str, str], int]:
        return {("train", "failed"): 2, ("train", "succeeded"): 40}

    def workers(self) -> list[str]:
        return ["one", "two"]


async def collect(redis: FakeRedis, *, available: bool = True) -> Samples:
    """Scrape a server with one loaded model, in another thread as Prometheus does."""
    scoring = FakeScoring()
    registry = CollectorRegistry()
    registry.register(
        StateCollector(
            asyncio.get_running_loop(),
            "cpu",
            cast(ModelCache, scoring),
            cast(Scorer, scoring),
            StreamMetrics(),
            cast(FrameRecorder, scoring),
            cast(Shadow, scoring),
            InspectionFeed(Activity(), ImageLimits(), 1),
            cast(Dependencies, FakeDependencies(available)),
            cast(DiskMonitor, FakeDisk()),
            cast(JobStore, redis),
            cast(WorkerRegistry, redis),
        )
    )
    return await asyncio.to_thread(scrape, registry)


async def test_state_is_read_at_each_scrape() -> None:
    samples = await collect(FakeRedis())
    version = {"model": "tile", "version": "3"}
    assert value(samples, "blemish_loaded_bytes", **version, runtime="openvino") == 1000
    assert value(samples, "blemish_waiting_images", **version) == 7
    assert value(samples, "blemish_waiting_bytes") == 4096
    assert value(samples, "blemish_disk_full") == 1
    assert value(samples, "blemish_disk_free_bytes") == 500
    assert value(samples, "blemish_disk_total_bytes") == 8000
    assert value(samples, "blemish_lost_log_lines_total") == 0
    assert value(samples, "blemish_watchers") == 0
    assert value(samples, "blemish_lost_watch_events_total") == 0
    assert value(samples, "blemish_kept_frames_total") == 5
    assert value(samples, "blemish_unkept_frames_total") == 2
    outcomes = {"both_normal": 0, "both_anomalous": 4, "only_shadow": 2, "only_production": 0}
    pair = {"model": "tile", "version": "4", "beside": "3"}
    assert {
        name: value(samples, "blemish_shadowed_images_total", **pair, outcome=name) for name in outcomes
    } == outcomes
    assert value(samples, "blemish_dependency_up", dependency="redis") == 1
    assert value(samples, "blemish_dependency_up", dependency="qdrant") == 0
    assert value(samples, "blemish_unfinished_jobs", kind="train", state="queued") == 2
    assert value(samples, "blemish_unfinished_jobs", kind="train", state="running") == 1
    assert value(samples, "blemish_unfinished_jobs", kind="embed", state="queued") == 1
    assert value(samples, "blemish_ended_jobs_total", kind="train", state="failed") == 2
    assert value(samples, "blemish_ended_jobs_total", kind="train", state="succeeded") == 40
    assert value(samples, "blemish_workers") == 2


@pytest.mark.parametrize(("lost", "available", "queries"), [(True, True, 1), (False, False, 0)])
async def test_other_metrics_are_collected_without_redis(lost: bool, available: bool, queries: int) -> None:
    redis = FakeRedis(lost=lost)
    samples = await collect(redis, available=available)
    assert value(samples, "blemish_waiting_bytes") == 4096
    assert not [name for name, _ in samples if name in ("blemish_unfinished_jobs", "blemish_workers")]
    assert redis.queries == queries, "none while Redis is known to be unavailable, so scrapes stay fast"
