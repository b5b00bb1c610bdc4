# SPDX-License-Identifier: Apache-2.0
"""Has a version judge beside the one in production without a say, and compares what they say.

Images come here once they are answered, and the newest of each model waits; none of those before it is
looked at. After each comparison there is a rest nine times as long, so that a shadow takes a tenth of what
one lane can do, however busy that is, and the images that it sees are picked by the clock alone.
"""

import asyncio
import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

import structlog

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput
from blemish_core.models.bundle import Manifest
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, TooLarge
from blemish_core.platform.names import ModelRef, item_name
from blemish_core.search.frame_store import encode_image
from blemish_core.search.item import item_id
from blemish_server.scoring.batcher import Patience, Priority
from blemish_server.scoring.frame_recorder import FrameRecorder
from blemish_server.scoring.model_cache import ModelCache
from blemish_server.scoring.scorer import Inspected, Scorer, Terms
from blemish_server.scoring.waiting import either

_LOOK_EVERY_S = 1.0
_REST = 9.0
# What a failure counts as: it is tried again after nine seconds.
_FAILED_S = 1.0
_MOST_TOLD = 50

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Disagreement:
    """An image that one version takes for normal and the other for anomalous."""

    time: datetime
    camera: str
    item: str
    """items/{uuid}; empty if it was not kept."""
    production_score: float
    production_threshold: float
    shadow_score: float
    shadow_threshold: float


class Outcome(StrEnum):
    """Who takes an image for anomalous; under these names it is told."""

    BOTH_NORMAL = "both_normal"
    BOTH_ANOMALOUS = "both_anomalous"
    ONLY_SHADOW = "only_shadow"
    ONLY_PRODUCTION = "only_production"

    @classmethod
    def of(cls, *, production: bool, shadow: bool) -> "Outcome":
        if production:
            return cls.BOTH_ANOMALOUS if shadow else cls.ONLY_PRODUCTION
        return cls.ONLY_SHADOW if shadow else cls.BOTH_NORMAL


@dataclass
class Comparison:
    """How two versions of a model have judged the same images."""

    production: ModelRef
    shadow: ModelRef
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    failed: int = 0
    disagreements: deque[Disagreement] = field(default_factory=lambda: deque(maxlen=_MOST_TOLD))
    """Newest first."""


Take = Callable[[], tuple[ImageInput, datetime | None]]
"""Gives an image, and when it was taken if that is known."""


@dataclass(frozen=True)
class _Answered:
    take: Take
    done: Inspected
    camera: str
    at: datetime


class Shadow:
    def __init__(
        self,
        store: ModelStore,
        models: ModelCache,
        inspector: Scorer,
        keeper: FrameRecorder,
        limits: ImageLimits,
    ) -> None:
        self._store = store
        self._models = models
        self._inspector = inspector
        self._keeper = keeper
        self._limits = limits
        self._comparisons: dict[str, Comparison] = {}
        """By model."""
        self._newest: dict[str, _Answered] = {}
        self._came = asyncio.Event()
        self._terms = Terms(self, Priority.BACKFILL, patience=Patience.ENDLESS)

    @property
    def comparisons(self) -> list[Comparison]:
        """Those under way."""
        return list(self._comparisons.values())

    def of(self, manifest: Manifest) -> Comparison | None:
        """The comparison whose shadow a version is."""
        comparison = self._comparisons.get(manifest.model)
        return comparison if comparison and comparison.shadow.version == manifest.version else None

    def offer(self, take: Take, done: Inspected, camera: str) -> None:
        """Take note of an image that was judged as its version is calibrated; returns at once.

        ``take`` is called only if its turn comes: most images give way to newer ones.
        """
        comparison = self._comparisons.get(done.manifest.model)
        if comparison is None or comparison.production.version != done.manifest.version:
            return
        self._newest[done.manifest.model] = _Answered(take, done, camera, datetime.now(UTC))
        self._came.set()

    async def run(self) -> None:
        """Compare, and see which versions are to be compared, until cancelled."""
        look_at = time.monotonic()
        while True:
            if time.monotonic() >= look_at:
                await self._look()
                look_at = time.monotonic() + _LOOK_EVERY_S
            await either(self._came, max(0.0, look_at - time.monotonic()))
            self._came.clear()
            answered, self._newest = self._newest, {}
            spent_s = 0.0
            for one in answered.values():
                spent_s += await self._compare(one)
            await asyncio.sleep(_REST * spent_s)

    async def _look(self) -> None:
        try:
            pairs = await asyncio.to_thread(self._pairs)
        except (OSError, ValueError) as error:
            log.error("shadows not looked up", reason=str(error))
            return
        for model in [model for model in self._comparisons if model not in pairs]:
            log.info("shadow ends", model=str(self._comparisons.pop(model).shadow))
        for model, (production, shadow) in pairs.items():
            known = self._comparisons.get(model)
            if known is None or (known.production, known.shadow) != (production, shadow):
                self._comparisons[model] = Comparison(production, shadow)
                log.info("shadow begins", model=str(shadow), beside=str(production))

    def _pairs(self) -> dict[str, tuple[ModelRef, ModelRef]]:
        """Versions in production and their shadows, by model."""
        return {
            shadow.model: (ModelRef(shadow.model, production), shadow)
            for shadow in self._store.shadows()
            if (production := self._store.production(shadow.model)) is not None
        }

    async def _compare(self, one: _Answered) -> float:
        """Have the shadow judge what production has; returns how long a lane took for that, s."""
        comparison = self._comparisons.get(one.done.manifest.model)
        if comparison is None or comparison.production.version != one.done.manifest.version:
            return 0.0
        try:
            if not await self._models.fits(comparison.shadow):
                raise TooLarge("it has no place beside the loaded models; raise BLEMISH_MAX_LOADED_BYTES")
            picture, taken = one.take()
            done = await self._inspector.inspect(picture, comparison.shadow, self._terms)
        except BlemishError as error:
            comparison.failed += 1
            log.warning("shadow cannot judge", model=str(comparison.shadow), reason=str(error))
            return _FAILED_S
        outcome = Outcome.of(production=_anomalous(one.done), shadow=_anomalous(done))
        comparison.outcomes[outcome] += 1
        if outcome in (Outcome.ONLY_SHADOW, Outcome.ONLY_PRODUCTION):
            await self._note(comparison, one, done, picture, taken or one.at)
        return done.decode_s + done.inference_s

    async def _note(
        self, comparison: Comparison, one: _Answered, done: Inspected, picture: ImageInput, taken: datetime
    ) -> None:
        """Keep an image on which the two disagree, and tell of it."""
        item = ""
        if self._keeper.offer(picture, one.done, one.camera, taken):
            data = await asyncio.to_thread(encode_image, picture, self._limits)
            item = item_name(item_id(comparison.production, hashlib.sha256(data).hexdigest()))
        told = Disagreement(
            taken,
            one.camera,
            item,
            one.done.outcome.score,
            one.done.calibration.calibration.threshold,
            done.outcome.score,
            done.calibration.calibration.threshold,
        )
        comparison.disagreements.appendleft(told)
        log.info(
            "shadow disagrees",
            model=str(comparison.shadow),
            camera=one.camera,
            item=item,
            score=told.shadow_score,
            production_score=told.production_score,
        )


def _anomalous(done: Inspected) -> bool:
    return done.calibration.calibration.anomalous(done.outcome.score)
