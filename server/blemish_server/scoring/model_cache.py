# SPDX-License-Identifier: Apache-2.0
"""The model versions in memory, warm, each with its batcher; the least recently used makes room."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import structlog
from torch import Tensor

from blemish_core.detectors.base import Detector, PatchFeatures, Prediction
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import CalibrationLog, Revision
from blemish_core.models.loading import load_detector
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, NotFound
from blemish_core.platform.names import ModelRef
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_server.scoring.batcher import Answer, Batcher, BatchingPolicy

# How long what a name means is taken for granted; this server's own promotions count at once.
_MEANING_S = 0.25
# After a version would not load while an older one serves.
_RETRY_S = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Asked:
    """A picture to come, and whether to look at each of its patches too."""

    take: Callable[[], ImageInput]
    closely: bool = False


@dataclass(frozen=True)
class Prepared:
    """A model's input, and the calibration in force since its turn came."""

    input: Tensor
    calibration: Revision
    shape: tuple[int, int]
    """(H, W) of the picture, px."""
    closely: bool


@dataclass(frozen=True)
class Judged:
    """What the detector says, and the calibration that it is judged by."""

    outcome: Prediction
    calibration: Revision
    shape: tuple[int, int]
    look: PatchFeatures | None
    """Where it was asked for."""


@dataclass
class Tally:
    """What a version has done since it was loaded; times are sums over its images."""

    images: int = 0
    queue_s: float = 0.0
    decode_s: float = 0.0
    inference_s: float = 0.0
    last: float = 0.0
    """When, in seconds since 1970."""

    def add(self, answer: Answer[Judged]) -> None:
        self.images += 1
        self.queue_s += answer.queued_s
        self.decode_s += answer.prepared_s
        self.inference_s += answer.computed_s
        self.last = time.time()


@dataclass
class LoadedModel:
    """A version that is ready to score."""

    ref: ModelRef
    manifest: Manifest
    detector: Detector
    batcher: Batcher[Asked, Prepared, Judged]
    bytes: int
    tally: Tally = field(default_factory=Tally)
    users: int = 0


@dataclass(frozen=True)
class _Meaning:
    """The fixed version that a name means, and until when that is taken for granted."""

    ref: ModelRef
    until_s: float


class ModelCache:
    """Loads versions when they are first asked for and keeps those that fit ``budget_bytes``.

    Where a name comes to mean another version, the one before goes on until the new one is warm.
    """

    def __init__(
        self,
        store: ModelStore,
        limits: ImageLimits,
        *,
        device: str,
        runtime: RuntimeChoice,
        policy: BatchingPolicy,
        budget_bytes: int,
    ) -> None:
        self._store = store
        self._limits = limits
        self._device = device
        self._runtime = runtime
        self._policy = policy
        self._budget_bytes = budget_bytes
        self._models: OrderedDict[ModelRef, LoadedModel] = OrderedDict()
        self._loading: dict[ModelRef, asyncio.Task[LoadedModel]] = {}
        self._one_load = asyncio.Lock()  # each is work for all cores, and a peak of memory
        self._meanings: dict[ModelRef, _Meaning] = {}
        self._looking: dict[ModelRef, asyncio.Task[ModelRef]] = {}
        self._retry_at_s: dict[ModelRef, float] = {}

    @property
    def runtimes(self) -> dict[str, str]:
        """The loaded versions and what runs them, most recently used first."""
        return {str(ref): model.detector.runtime.name for ref, model in reversed(self._models.items())}

    @property
    def loaded(self) -> list[LoadedModel]:
        """The versions in memory."""
        return list(self._models.values())

    @property
    def tallies(self) -> dict[ModelRef, Tally]:
        """What each loaded version has done."""
        return {ref: model.tally for ref, model in self._models.items()}

    @property
    def bytes(self) -> int:
        """What the loaded versions hold."""
        return sum(model.bytes for model in self._models.values())

    @asynccontextmanager
    async def use(self, ref: ModelRef) -> AsyncIterator[LoadedModel]:
        """Hold the version that ``ref`` means now; it is not unloaded meanwhile.

        Raises:
            NotFound: if there is no such model or version.
            Corrupt: if its bundle is not what was written.
            FailedPrecondition: if it lacks the runtime that the server is to use.
        """
        model = await self._model(ref)
        self._models.move_to_end(model.ref)
        model.users += 1
        try:
            yield model
        finally:
            model.users -= 1
            if not model.users:
                self._make_room()

    async def load(self, fixed: ModelRef) -> LoadedModel:
        """Have a version in memory and warm.

        Raises:
            as ``use`` does.
        """
        while (model := self._models.get(fixed)) is None:
            # Shielded: a waiter that leaves does not stop the load that others wait for.
            await asyncio.shield(self._begin_load(fixed))
        return model

    async def fits(self, fixed: ModelRef) -> bool:
        """Whether a version is in memory, or would push no other out.

        Raises:
            NotFound: if there is no such version.
            Corrupt: if its card cannot be read.
        """
        if fixed in self._models:
            return True
        manifest = await asyncio.to_thread(self._store.manifest, fixed)
        return self.bytes + manifest.size_bytes <= self._budget_bytes

    async def warm(self, refs: Sequence[ModelRef]) -> None:
        """Load those of ``refs`` that fit the budget, in their order; one that cannot be is logged."""
        for ref in refs:
            try:
                if self._models and not await self.fits(ref):
                    log.warning("model not loaded ahead", model=str(ref), reason="BLEMISH_MAX_LOADED_BYTES")
                    continue
                await self.load(ref)
            except BlemishError as error:
                log.error("model not loaded ahead", model=str(ref), reason=str(error))

    def forget_meanings(self, model: str) -> None:
        """Have the store looked at before a name of ``model`` is next relied on."""
        for ref in [ref for ref in self._meanings if ref.model == model]:
            known = self._meanings[ref]
            self._meanings[ref] = _Meaning(known.ref, 0.0)
            self._looking.pop(ref, None)  # it may have looked before the change

    def forget(self, removed: ModelRef) -> None:
        """Let go of a version that is no longer in the store, or of all of a model; not of one in use."""
        self.forget_meanings(removed.model)
        for ref in [ref for ref, model in self._models.items() if not model.users]:
            if ref.model == removed.model and removed.version in (None, ref.version):
                self._unload(ref)

    def close(self) -> None:
        """Stop every batcher and load; callers still waiting are cancelled."""
        for load in self._loading.values():
            load.cancel()
        for model in self._models.values():
            model.batcher.close()
        self._models.clear()

    async def _model(self, ref: ModelRef) -> LoadedModel:
        before = self._meanings.get(ref)
        fixed = await self._meant(ref)
        if (model := self._models.get(fixed)) is not None:
            return model
        serving = self._models.get(before.ref) if before else None
        if serving is None:
            return await self.load(fixed)
        # The next look decides again: by then it may be there.
        self._meanings[ref] = _Meaning(serving.ref, self._now_s() + _MEANING_S)
        if self._now_s() >= self._retry_at_s.get(fixed, 0.0):
            self._begin_load(fixed).add_done_callback(partial(self._note_failure, fixed))
        return serving

    async def _meant(self, ref: ModelRef) -> ModelRef:
        """What ``ref`` means; one look at the store for all who ask meanwhile."""
        known = self._meanings.get(ref)
        if known is not None and self._now_s() < known.until_s:
            return known.ref
        look = self._looking.get(ref)
        if look is None:
            look = asyncio.create_task(self._look(ref))
            self._looking[ref] = look
            look.add_done_callback(lambda done: self._looked(ref, done))
        fixed = await asyncio.shield(look)
        if self._looking.get(ref) is look:
            del self._looking[ref]
            self._meanings[ref] = _Meaning(fixed, self._now_s() + _MEANING_S)
        return fixed

    async def _look(self, ref: ModelRef) -> ModelRef:
        try:
            return await asyncio.to_thread(self._store.resolve, ref)
        except NotFound:
            # Perhaps removed by another server, or by hand: what is written in its place is to be read.
            for known in [known for known in self._models if known.model == ref.model]:
                if not await asyncio.to_thread(self._store.has, known):
                    self.forget(known)
            raise

    def _looked(self, ref: ModelRef, look: "asyncio.Task[ModelRef]") -> None:
        if (look.cancelled() or look.exception()) and self._looking.get(ref) is look:
            del self._looking[ref]

    def _begin_load(self, fixed: ModelRef) -> "asyncio.Task[LoadedModel]":
        task = self._loading.get(fixed)
        if task is None:
            task = asyncio.create_task(self._load(fixed))
            self._loading[fixed] = task
            task.add_done_callback(lambda _: self._loading.pop(fixed, None))
        return task

    def _note_failure(self, fixed: ModelRef, load: "asyncio.Task[LoadedModel]") -> None:
        if not load.cancelled() and (error := load.exception()):
            self._retry_at_s[fixed] = self._now_s() + _RETRY_S
            log.error("model not loaded; the one before it goes on", model=str(fixed), reason=str(error))

    async def _load(self, ref: ModelRef) -> LoadedModel:
        async with self._one_load:
            folder = self._store.folder(ref.model, ref.version or 0)
            manifest, detector = await asyncio.to_thread(load_detector, folder, self._device, self._runtime)
            await self._run_once(detector)
        calibrations = CalibrationLog(folder, manifest, manifest.calibration_under(detector.runtime.name))
        model = LoadedModel(
            ref,
            manifest,
            detector,
            Batcher(
                partial(_prepare, detector, calibrations, self._limits),
                partial(_judge, detector),
                self._policy,
                name=str(ref),
            ),
            detector.bytes,
        )
        self._models[ref] = model
        log.info(
            "model loaded",
            model=str(ref),
            device=self._device,
            runtime=detector.runtime.name,
            bytes=model.bytes,
        )
        self._make_room(newest=ref)
        return model

    async def _run_once(self, detector: Detector) -> None:
        """Score grey as every lane will, and as large: memory and kernels are made on first use."""
        grey = detector.prepare(np.full((detector.input_size, detector.input_size, 3), 128, np.uint8))
        for size in {1, self._policy.max_batch_size}:
            lanes = [asyncio.to_thread(detector.predict, [grey] * size) for _ in range(self._policy.lanes)]
            await asyncio.gather(*lanes)

    def _make_room(self, newest: ModelRef | None = None) -> None:
        # One in use stays, even if that means one too many for a while.
        idle = [ref for ref, model in self._models.items() if not model.users and ref != newest]
        while self.bytes > self._budget_bytes and len(self._models) > 1 and idle:
            self._unload(idle.pop(0))

    def _unload(self, ref: ModelRef) -> None:
        gone = self._models.pop(ref)
        gone.batcher.close()
        log.info("model unloaded", model=str(ref), bytes=gone.bytes)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _prepare(
    detector: Detector, calibrations: CalibrationLog, limits: ImageLimits, asked: Asked
) -> Prepared:
    pixels = asked.take().pixels(limits)
    height, width, _ = pixels.shape
    return Prepared(detector.prepare(pixels), calibrations.newest(), (height, width), asked.closely)


def _judge(detector: Detector, batch: Sequence[Prepared]) -> list[Judged]:
    closely, passing = ([one for one in batch if one.closely is so] for so in (True, False))
    looks = iter(detector.predict_with_patches([one.input for one in closely]) if closely else ())
    outcomes = iter(detector.predict([one.input for one in passing]) if passing else ())
    judged = []
    for one in batch:
        look = next(looks) if one.closely else None
        outcome = look.prediction if look else next(outcomes)
        judged.append(Judged(outcome, one.calibration, one.shape, look))
    return judged
