# SPDX-License-Identifier: Apache-2.0
"""The path of an image through the server, shared by unary calls, streams and the inference protocol."""

import math
import time
from dataclasses import replace
from typing import Protocol

from blemish_core.platform.names import ModelRef
from blemish_server.scoring.batcher import Priority
from blemish_server.scoring.defect_namer import DefectNamer
from blemish_server.scoring.frame_recorder import FrameRecorder, recorded_item
from blemish_server.scoring.inspection import Inspection, NamingPolicy, ScoringRequest
from blemish_server.scoring.inspection_feed import InspectionFeed
from blemish_server.scoring.scorer import Scorer
from blemish_server.scoring.shadow import Shadow


class InspectionObserver(Protocol):
    """A metric that counts inspections."""

    def observe(self, inspection: Inspection) -> None:
        """Count an inspection."""


class ScoringPipeline:
    """Scores images, then counts, records, shadows, names and publishes them."""

    def __init__(
        self,
        scorer: Scorer,
        metrics: InspectionObserver,
        recorder: FrameRecorder,
        shadow: Shadow,
        namer: DefectNamer,
        feed: InspectionFeed,
    ) -> None:
        self._scorer = scorer
        self._metrics = metrics
        self._recorder = recorder
        self._shadow = shadow
        self._namer = namer
        self._feed = feed

    async def warm_up(self, ref: ModelRef, *, naming: NamingPolicy = NamingPolicy.NONE) -> None:
        """Load the version that ``ref`` means now, and begin to read its labels if they are needed.

        Raises:
            BlemishError: as ``Scorer.warm_up`` does.
        """
        version = await self._scorer.warm_up(ref)
        if naming is not NamingPolicy.NONE:
            self._namer.prepare(version)

    async def score(self, request: ScoringRequest) -> Inspection:
        """Score an image. Only an inspection that meets the maximum latency is counted or recorded.

        Raises:
            BlemishError: as ``Scorer.score`` does.
        """
        names = request.naming is not NamingPolicy.NONE
        if names:
            request = replace(request, on_version=self._namer.prepare)
        inspection = await self._scorer.score(request)
        request.check_latency(inspection.capture)
        if request.false_reject_rate is not None:
            inspection = inspection.at_false_reject_rate(request.false_reject_rate)
        self._metrics.observe(inspection)
        if request.storage.selects(inspection):
            if self._recorder.enqueue(inspection):
                inspection = replace(inspection, item=recorded_item(inspection))
            else:
                inspection = replace(inspection, notes=(*inspection.notes, self._recorder.refusal))
        if request.false_reject_rate is None:
            self._shadow.enqueue(inspection)
        if names and inspection.is_anomalous:
            found = await self._namer.name(
                inspection.version,
                inspection.prediction.embedding,
                may_wait_until=_wait_limit(request),
            )
            inspection = replace(inspection, defect_class=found)
        self._feed.publish(inspection)
        return inspection


def _wait_limit(request: ScoringRequest) -> float:
    """Return the time until which a response may wait for labels.

    A machine on the line acts on the verdict, so it never waits. Other calls keep half of the time that is
    left until their deadline.
    """
    if request.naming is not NamingPolicy.WAIT or request.queue.priority is Priority.LINE_STOP:
        return -math.inf
    now_s = time.monotonic()
    return now_s + (request.queue.deadline - now_s) / 2
