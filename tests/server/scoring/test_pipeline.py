# SPDX-License-Identifier: Apache-2.0
"""The steps after scoring: metrics, recording, shadow."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from tests.support.inspections import make_capture
from tests.support.scorers import FakeNamer, FakeScorer

from blemish_core.platform.errors import BlemishError, DeadlineExceeded, InvalidRequest, Overloaded
from blemish_core.platform.names import ModelRef
from blemish_server.scoring.batcher import Priority
from blemish_server.scoring.frame_recorder import FrameRecorder
from blemish_server.scoring.inspection import (
    Capture,
    Inspection,
    NamingPolicy,
    QueueOptions,
    ScoringRequest,
    StoragePolicy,
)
from blemish_server.scoring.inspection_feed import InspectionFeed
from blemish_server.scoring.pipeline import ScoringPipeline
from blemish_server.scoring.shadow import Shadow

MODEL = ModelRef("tile", 1)
NORMAL, ANOMALOUS = b"0.5", b"2.0"


@dataclass
class FakeSteps:
    """Metrics, recorder and shadow that collect the inspections they are given."""

    observed: list[Inspection] = field(default_factory=list)
    recorded: list[Inspection] = field(default_factory=list)
    shadowed: list[Inspection] = field(default_factory=list)
    published: list[Inspection] = field(default_factory=list)
    namer: FakeNamer = field(default_factory=FakeNamer)
    refusal: str = ""
    """Reason for which the recorder keeps no frame."""

    def observe(self, inspection: Inspection) -> None:
        self.observed.append(inspection)

    def pipeline(self, scorer: FakeScorer) -> ScoringPipeline:
        return ScoringPipeline(
            scorer.as_scorer(),
            self,
            cast(FrameRecorder, FakeSink(self.recorded, self.refusal)),
            cast(Shadow, FakeSink(self.shadowed)),
            self.namer.as_namer(),
            cast(InspectionFeed, FakeFeed(self.published)),
        )

    @property
    def counts(self) -> tuple[int, int, int]:
        return len(self.observed), len(self.recorded), len(self.shadowed)


@dataclass
class FakeSink:
    """A list that inspections are queued to."""

    inspections: list[Inspection]
    refusal: str = ""

    def enqueue(self, inspection: Inspection) -> bool:
        self.inspections.append(inspection)
        return not self.refusal


@dataclass
class FakeFeed:
    """A feed without watchers."""

    inspections: list[Inspection]

    def publish(self, inspection: Inspection) -> None:
        self.inspections.append(inspection)


def request(
    data: bytes = NORMAL,
    *,
    storage: StoragePolicy = StoragePolicy.NONE,
    false_reject_rate: float | None = None,
    max_latency_s: float | None = None,
    claim: Callable[[], Capture] | None = None,
    naming: NamingPolicy = NamingPolicy.NONE,
    priority: Priority = Priority.AUDIT,
    deadline: float = math.inf,
) -> ScoringRequest:
    """Return a request for an image whose bytes spell its score."""
    return ScoringRequest(
        MODEL,
        QueueOptions("caller", priority, deadline),
        claim or (lambda: make_capture(data, arrived_s=time.monotonic())),
        len(data),
        storage,
        false_reject_rate,
        max_latency_s,
        naming=naming,
    )


@pytest.mark.parametrize(
    ("storage", "data", "recorded"),
    [
        (StoragePolicy.NONE, ANOMALOUS, 0),
        (StoragePolicy.ANOMALOUS, NORMAL, 0),
        (StoragePolicy.ANOMALOUS, ANOMALOUS, 1),
        (StoragePolicy.ALL, NORMAL, 1),
    ],
)
async def test_inspection_is_counted_and_recorded_by_its_verdict(
    storage: StoragePolicy, data: bytes, recorded: int
) -> None:
    steps = FakeSteps()
    inspection = await steps.pipeline(FakeScorer()).score(request(data, storage=storage))
    assert inspection.is_anomalous is (data == ANOMALOUS)
    assert steps.counts == (1, recorded, 1)
    assert bool(inspection.item) == bool(recorded)


async def test_watchers_receive_the_inspection_that_the_client_receives() -> None:
    steps = FakeSteps()
    asked = request(ANOMALOUS, storage=StoragePolicy.ALL, naming=NamingPolicy.AT_ONCE)
    inspection = await steps.pipeline(FakeScorer()).score(asked)
    assert inspection.item
    assert inspection.defect_class is not None
    assert steps.published == [inspection]


async def test_frame_that_is_not_kept_has_a_note() -> None:
    pipeline = FakeSteps(refusal="not kept").pipeline(FakeScorer())
    kept = await pipeline.score(request(ANOMALOUS, storage=StoragePolicy.ALL))
    assert kept.notes == ("not kept",)
    assert kept.item == ""
    assert kept.is_anomalous
    assert (await pipeline.score(request(NORMAL, storage=StoragePolicy.ANOMALOUS))).notes == ()


async def test_other_false_reject_rate_decides_the_verdict_and_excludes_the_shadow() -> None:
    steps = FakeSteps()
    pipeline = steps.pipeline(FakeScorer())
    asked = request(NORMAL, storage=StoragePolicy.ANOMALOUS, false_reject_rate=0.5)
    inspection = await pipeline.score(asked)
    assert inspection.is_anomalous, "held-out scores are below it, although the fixed threshold is above"
    assert inspection.threshold < 0.5
    assert steps.counts == (1, 1, 0)
    assert steps.recorded == [replace(inspection, item="")]


@pytest.mark.parametrize("error", [Overloaded("full"), InvalidRequest("not an image")])
async def test_failed_scoring_is_neither_counted_nor_recorded(error: BlemishError) -> None:
    steps, scorer = FakeSteps(), FakeScorer()
    scorer.error = error
    with pytest.raises(type(error)):
        await steps.pipeline(scorer).score(request(storage=StoragePolicy.ALL))
    assert steps.counts == (0, 0, 0)


async def test_inspection_after_the_maximum_latency_is_neither_counted_nor_recorded() -> None:
    def slow(data: bytes) -> float:
        time.sleep(0.05)
        return float(data)

    steps = FakeSteps()
    with pytest.raises(DeadlineExceeded, match=r"max_latency of 0\.04 s"):
        await steps.pipeline(FakeScorer(slow)).score(request(storage=StoragePolicy.ALL, max_latency_s=0.04))
    assert steps.counts == (0, 0, 0)


async def test_image_is_claimed_once() -> None:
    claims: list[Capture] = []

    def claim() -> Capture:
        claims.append(make_capture(ANOMALOUS, camera="left"))
        return claims[-1]

    steps = FakeSteps()
    await steps.pipeline(FakeScorer()).score(request(claim=claim, storage=StoragePolicy.ALL))
    assert len(claims) == 1
    assert steps.recorded[0].capture is claims[0]


@pytest.mark.parametrize("naming", [NamingPolicy.AT_ONCE, NamingPolicy.WAIT])
async def test_anomalous_image_is_named_by_the_labels_of_the_version_that_scored_it(
    naming: NamingPolicy,
) -> None:
    steps = FakeSteps()
    inspection = await steps.pipeline(FakeScorer()).score(request(ANOMALOUS, naming=naming))
    assert inspection.defect_class == steps.namer.found
    ((version, embedding),) = steps.namer.named
    assert version == inspection.version
    assert embedding is inspection.prediction.embedding
    assert steps.namer.prepared == [MODEL], "labels are read while the image is scored"


@pytest.mark.parametrize(
    ("data", "naming", "prepared"),
    [(ANOMALOUS, NamingPolicy.NONE, []), (NORMAL, NamingPolicy.WAIT, [MODEL])],
)
async def test_image_is_not_named_if_it_is_normal_or_no_class_was_requested(
    data: bytes, naming: NamingPolicy, prepared: list[ModelRef]
) -> None:
    steps = FakeSteps()
    inspection = await steps.pipeline(FakeScorer()).score(request(data, naming=naming))
    assert inspection.defect_class is None
    assert (steps.namer.named, steps.namer.prepared) == ([], prepared)


async def test_line_stop_images_never_wait_for_labels_and_others_half_of_their_time() -> None:
    steps = FakeSteps()
    pipeline, began = steps.pipeline(FakeScorer()), time.monotonic()
    for naming, priority, deadline in (
        (NamingPolicy.WAIT, Priority.LINE_STOP, math.inf),
        (NamingPolicy.AT_ONCE, Priority.AUDIT, math.inf),
        (NamingPolicy.WAIT, Priority.AUDIT, math.inf),
        (NamingPolicy.WAIT, Priority.BACKFILL, began + 100),
    ):
        await pipeline.score(request(ANOMALOUS, naming=naming, priority=priority, deadline=deadline))
    line_stop, stream, unlimited, limited = steps.namer.limits
    assert (line_stop, stream, unlimited) == (-math.inf, -math.inf, math.inf)
    assert began + 50 <= limited <= began + 60
