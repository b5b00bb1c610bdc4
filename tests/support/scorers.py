# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the parts of scoring."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from tests.support.inspections import TIMINGS, make_inspection

from blemish_core.platform.names import ModelRef
from blemish_core.search.labelled_items import Consensus, DefectClass
from blemish_core.search.query import Vector
from blemish_server.scoring.defect_namer import DefectNamer
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
        request.on_version(request.model)
        capture = request.claim()
        request.check_latency(capture)
        if self.error is not None:
            raise self.error
        score = self._score_of(capture.image.data)
        made = make_inspection(score, version=request.model, capture=capture, timings=self.timings)
        return replace(made, notes=self.notes)

    async def warm_up(self, ref: ModelRef) -> ModelRef:
        return ref

    def as_scorer(self) -> Scorer:
        """Return it as the type that product code takes."""
        return cast(Scorer, self)


class FakeNamer:
    """A namer that gives every defect the same class."""

    def __init__(self) -> None:
        self.found = DefectClass(Consensus.MAJORITY, "crack", 0.75, 5)
        self.prepared: list[ModelRef] = []
        self.named: list[tuple[ModelRef, Vector]] = []
        self.limits: list[float] = []
        """Times until which each response might have waited."""

    def prepare(self, version: ModelRef) -> None:
        self.prepared.append(version)

    async def name(self, version: ModelRef, embedding: Vector, *, may_wait_until: float) -> DefectClass:
        self.named.append((version, embedding))
        self.limits.append(may_wait_until)
        return self.found

    def as_namer(self) -> DefectNamer:
        """Return it as the type that product code takes."""
        return cast(DefectNamer, self)
