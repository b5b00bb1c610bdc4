# SPDX-License-Identifier: Apache-2.0
"""Comparison of the version in production with a shadow, whose verdicts are not returned to clients.

Images are queued after they were answered. Only the newest image of each model waits. After each comparison
the shadow pauses nine times as long, so that it takes a tenth of one lane under any load. The clock alone
selects the images.
"""

import asyncio
import hashlib
import time
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum

import structlog

from blemish_core.imaging.decode import ImageLimits
from blemish_core.models.bundle import Manifest
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, TooLarge
from blemish_core.platform.names import ModelRef, item_name
from blemish_core.search.frame_store import encode_image
from blemish_core.search.item import item_id
from blemish_server.scoring.background_queue import BackgroundQueue
from blemish_server.scoring.batcher import AdmissionLimit, Priority
from blemish_server.scoring.frame_recorder import FrameRecorder
from blemish_server.scoring.inspection import Inspection, QueueOptions, ScoringRequest
from blemish_server.scoring.localization import localized_again
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.scorer import Scorer

_REFRESH_EVERY_S = 1.0
_PAUSE_FACTOR = 9.0
# Time that a failure counts as: the next attempt follows nine seconds later.
_FAILURE_S = 1.0
_MAX_DISAGREEMENTS = 50

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Disagreement:
    """An image that is normal to one version and anomalous to the other."""

    time: datetime
    camera: str
    item: str
    """``items/{uuid}``, empty if the image was not recorded."""
    production_score: float
    production_threshold: float
    shadow_score: float
    shadow_threshold: float


class Agreement(StrEnum):
    """The verdicts of both versions on an image, as metrics spell them."""

    BOTH_NORMAL = "both_normal"
    BOTH_ANOMALOUS = "both_anomalous"
    ONLY_SHADOW = "only_shadow"
    ONLY_PRODUCTION = "only_production"

    @classmethod
    def of(cls, *, production: bool, shadow: bool) -> "Agreement":
        """Return the agreement of two verdicts; True means anomalous."""
        if production:
            return cls.BOTH_ANOMALOUS if shadow else cls.ONLY_PRODUCTION
        return cls.ONLY_SHADOW if shadow else cls.BOTH_NORMAL


@dataclass
class ShadowComparison:
    """The verdicts of two versions of a model on the same images."""

    production: ModelRef
    shadow: ModelRef
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    agreements: Counter[Agreement] = field(default_factory=Counter)
    failed: int = 0
    disagreements: deque[Disagreement] = field(default_factory=lambda: deque(maxlen=_MAX_DISAGREEMENTS))
    """Disagreements, newest first."""


class Shadow:
    """Scores a sample of the images in production with each model's shadow version."""

    def __init__(
        self,
        store: ModelStore,
        models: ModelCache,
        scorer: Scorer,
        recorder: FrameRecorder,
        limits: ImageLimits,
    ) -> None:
        self._store = store
        self._models = models
        self._scorer = scorer
        self._recorder = recorder
        self._limits = limits
        self._comparisons: dict[str, ShadowComparison] = {}
        """Comparisons by model."""
        self._newest: BackgroundQueue[Inspection] = BackgroundQueue()
        self._queue_options = QueueOptions(self, Priority.BACKFILL, limit=AdmissionLimit.UNLIMITED)

    @property
    def comparisons(self) -> list[ShadowComparison]:
        """The comparisons in progress."""
        return list(self._comparisons.values())

    def comparison_of(self, manifest: Manifest) -> ShadowComparison | None:
        """Return the comparison whose shadow is this version, None if there is none."""
        comparison = self._comparisons.get(manifest.model)
        return comparison if comparison and comparison.shadow.version == manifest.version else None

    def enqueue(self, inspection: Inspection) -> None:
        """Queue an image without waiting. It replaces an older one of the same model."""
        comparison = self._comparisons.get(inspection.manifest.model)
        if comparison is None or comparison.production.version != inspection.manifest.version:
            return
        if inspection.capture.time is None:  # a disagreement must show the time of this image
            capture = replace(inspection.capture, time=datetime.now(UTC))
            inspection = replace(inspection, capture=capture)
        self._newest.put(inspection, key=inspection.manifest.model)

    async def run(self) -> None:
        """Compare images and follow the versions to compare, until cancelled."""
        refresh_at = time.monotonic()
        while True:
            if time.monotonic() >= refresh_at:
                await self._refresh()
                refresh_at = time.monotonic() + _REFRESH_EVERY_S
            await self._newest.wait(refresh_at - time.monotonic())
            spent_s = 0.0
            for inspection in self._newest.take():
                spent_s += await self._compare(inspection)
            await asyncio.sleep(_PAUSE_FACTOR * spent_s)

    async def _refresh(self) -> None:
        """Start and end comparisons as versions are promoted or made shadows."""
        try:
            pairs = await asyncio.to_thread(self._pairs)
        except (OSError, ValueError) as error:
            log.error("shadow versions not read", reason=str(error))
            return
        for model in [model for model in self._comparisons if model not in pairs]:
            log.info("shadow comparison ended", model=str(self._comparisons.pop(model).shadow))
        for model, (production, shadow) in pairs.items():
            known = self._comparisons.get(model)
            if known is None or (known.production, known.shadow) != (production, shadow):
                self._comparisons[model] = ShadowComparison(production, shadow)
                log.info("shadow comparison started", model=str(shadow), production=str(production))

    def _pairs(self) -> dict[str, tuple[ModelRef, ModelRef]]:
        """Return the versions in production and their shadows, by model."""
        return {
            shadow.model: (ModelRef(shadow.model, production), shadow)
            for shadow in self._store.shadows()
            if (production := self._store.production(shadow.model)) is not None
        }

    async def _compare(self, production: Inspection) -> float:
        """Score an image with the shadow. Return the time that a lane spent on it, in seconds."""
        comparison = self._comparisons.get(production.manifest.model)
        if comparison is None or comparison.production.version != production.manifest.version:
            return 0.0
        try:
            if not await self._models.fits(comparison.shadow):
                raise TooLarge(
                    "the shadow does not fit into memory with the loaded models; raise "
                    "BLEMISH_MAX_LOADED_BYTES"
                )
            request = ScoringRequest.of(production.capture.image, comparison.shadow, self._queue_options)
            shadow = await self._scorer.score(request)
        except BlemishError as error:
            comparison.failed += 1
            log.warning("shadow scoring failed", model=str(comparison.shadow), reason=str(error))
            return _FAILURE_S
        agreement = Agreement.of(production=production.is_anomalous, shadow=shadow.is_anomalous)
        comparison.agreements[agreement] += 1
        if agreement in (Agreement.ONLY_SHADOW, Agreement.ONLY_PRODUCTION):
            await self._record(comparison, production, shadow)
        return shadow.timings.decode_s + shadow.timings.inference_s

    async def _record(
        self, comparison: ShadowComparison, production: Inspection, shadow: Inspection
    ) -> None:
        """Record an image on which the versions disagree."""
        capture, item = production.capture, ""
        production = await asyncio.to_thread(localized_again, production, self._limits)
        if self._recorder.enqueue(production):
            data = await asyncio.to_thread(encode_image, capture.image, self._limits)
            item = item_name(item_id(comparison.production, hashlib.sha256(data).hexdigest()))
        disagreement = Disagreement(
            capture.time or datetime.now(UTC),
            capture.camera,
            item,
            production.score,
            production.threshold,
            shadow.score,
            shadow.threshold,
        )
        comparison.disagreements.appendleft(disagreement)
        log.info(
            "shadow disagrees",
            model=str(comparison.shadow),
            camera=capture.camera,
            item=item,
            score=shadow.score,
            production_score=production.score,
        )
