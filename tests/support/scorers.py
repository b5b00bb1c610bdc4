# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the parts of scoring."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from tests.support.inspections import TIMINGS, make_inspection

from blemish_server.scoring.inspection import Inspection, ScoringRequest
from blemish_server.scoring.scorer import Scorer


class FakeScorer:
    """A scorer that claims each image and finds the score that ``score_of`` reads from its bytes."""

    def __init__(self, score_of: Callable[[bytes], float] = float) -> None:
        self._score_of = score_of
        self.requests: list[ScoringRequest] = []
        self.error: Exception | None = None
        self.timings = TIMINGS
        self.notes: tuple[str, ...] = ()
        """Notes of each inspection."""

    async def score(self, request: ScoringRequest) -> Inspection:
        self.requests.append(request)
        capture = request.claim()
        request.check_latency(capture)
        if self.error is not None:
            raise self.error
        score = self._score_of(capture.image.data)
        made = make_inspection(score, version=request.model, capture=capture, timings=self.timings)
        return replace(made, notes=self.notes)

    async def warm_up(self, ref: object) -> None:
        return

    def as_scorer(self) -> Scorer:
        """Return it as the type that product code takes."""
        return cast(Scorer, self)
