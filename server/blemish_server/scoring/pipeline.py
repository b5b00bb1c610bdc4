# SPDX-License-Identifier: Apache-2.0
"""The path of an image through the server, shared by unary calls, streams and the inference protocol."""

from typing import Protocol

from blemish_core.platform.names import ModelRef
from blemish_server.scoring.frame_recorder import FrameRecorder
from blemish_server.scoring.inspection import Inspection, ScoringRequest
from blemish_server.scoring.scorer import Scorer
from blemish_server.scoring.shadow import Shadow


class InspectionObserver(Protocol):
    """A metric that counts inspections."""

    def observe(self, inspection: Inspection) -> None:
        """Count an inspection."""


class ScoringPipeline:
    """Scores images, then counts, records and shadows them."""

    def __init__(
        self, scorer: Scorer, metrics: InspectionObserver, recorder: FrameRecorder, shadow: Shadow
    ) -> None:
        self._scorer = scorer
        self._metrics = metrics
        self._recorder = recorder
        self._shadow = shadow

    async def warm_up(self, ref: ModelRef) -> None:
        """Load the version that ``ref`` means now.

        Raises:
            BlemishError: as ``Scorer.warm_up`` does.
        """
        await self._scorer.warm_up(ref)

    async def score(self, request: ScoringRequest) -> Inspection:
        """Score an image. Only an inspection that meets the maximum latency is counted or recorded.

        Raises:
            BlemishError: as ``Scorer.score`` does.
        """
        inspection = await self._scorer.score(request)
        request.check_latency(inspection.capture)
        if request.false_reject_rate is not None:
            inspection = inspection.at_false_reject_rate(request.false_reject_rate)
        self._metrics.observe(inspection)
        if request.storage.selects(inspection):
            self._recorder.enqueue(inspection)
        if request.false_reject_rate is None:
            self._shadow.enqueue(inspection)
        return inspection
