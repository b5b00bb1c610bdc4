# SPDX-License-Identifier: Apache-2.0
"""The model versions in memory, each warm and with its own batcher."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import structlog
from cachetools import TTLCache
from numpy.typing import NDArray

from blemish_core.detectors.base import ServedDetector
from blemish_core.imaging.alignment import Alignment
from blemish_core.imaging.decode import ImageLimits, preview
from blemish_core.imaging.geometry import Size
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import CalibrationLog, Revision
from blemish_core.models.store import ModelStore
from blemish_core.platform.errors import BlemishError, NotFound
from blemish_core.platform.names import ModelRef
from blemish_core.platform.threads import all_cores
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.serving.loading import load_for_serving
from blemish_server.scoring.batcher import Batcher, BatchingPolicy, BusyLanes, Timings
from blemish_server.scoring.inspection import Capture, Inspection, ScoringRequest
from blemish_server.scoring.localization import localized

# Lifetime of a resolved name. Promotions by this server take effect at once.
_PREVIEW_PX = 2048
"""Longer side of previews, px."""
_PREVIEW_QUALITY = 92
_RESOLVED_S = 0.25
# Pause after a version failed to load while an older one serves.
_RETRY_S = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Prepared:
    """An image as the input of a model, and the calibration in force when a lane took it."""

    request: ScoringRequest
    capture: Capture
    input: Any
    """Result of ``ServedDetector.prepare``."""
    revision: Revision
    shape: tuple[int, int]
    """(height, width) of the image, in pixels."""
    pixels: NDArray[np.uint8] | None = None
    """RGB (H, W, 3), if the request needs regions."""
    notes: tuple[str, ...] = ()
    """Notes for the caller."""
    alignment: Alignment | None = None
    """Place of the part in the frame; None if the mask of the detector does not move."""
    shown: NDArray[np.uint8] | None = None
    """RGB (H, W, 3) with ignored pixels, if the request needs a preview."""


@dataclass
class Usage:
    """The work of a version since it was loaded; times are sums over its images, in seconds."""

    images: int = 0
    queue_s: float = 0.0
    decode_s: float = 0.0
    inference_s: float = 0.0
    last_used: float = 0.0
    """Time of the last image, in seconds since 1970."""

    def add(self, timings: Timings) -> None:
        """Count one image."""
        self.images += 1
        self.queue_s += timings.queue_s
        self.decode_s += timings.decode_s
        self.inference_s += timings.inference_s
        self.last_used = time.time()


@dataclass
class LoadedModel:
    """A model version that is ready to score."""

    ref: ModelRef
    manifest: Manifest
    detector: ServedDetector[Any]
    batcher: Batcher[ScoringRequest, Prepared, Inspection]
    bytes: int
    usage: Usage = field(default_factory=Usage)
    users: int = 0


class ModelCache:
    """Loads versions on first use and unloads the least recently used ones above ``budget_bytes``.

    If a name comes to mean another version, the previous one serves until the new one is warm.
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
        self._busy = BusyLanes()
        self._loading: dict[ModelRef, asyncio.Task[LoadedModel]] = {}
        self._load_lock = asyncio.Lock()  # each load uses all cores and has a peak of memory
        self._resolved: TTLCache[ModelRef, ModelRef] = TTLCache(math.inf, _RESOLVED_S)
        """The fixed versions that names mean now."""
        self._previous: dict[ModelRef, ModelRef] = {}
        """The fixed versions that names meant last."""
        self._resolving: dict[ModelRef, asyncio.Task[ModelRef]] = {}
        self._failed: TTLCache[ModelRef, bool] = TTLCache(math.inf, _RETRY_S)
        """Versions that failed to load a moment ago."""

    @property
    def runtimes(self) -> dict[str, str]:
        """The loaded versions and their runtimes, most recently used first."""
        return {str(ref): model.detector.runtime.name for ref, model in reversed(self._models.items())}

    @property
    def loaded(self) -> list[LoadedModel]:
        """The versions in memory."""
        return list(self._models.values())

    @property
    def bytes(self) -> int:
        """Size of the loaded versions."""
        return sum(model.bytes for model in self._models.values())

    @asynccontextmanager
    async def use(self, ref: ModelRef) -> AsyncIterator[LoadedModel]:
        """Hold the version that ``ref`` means now, so that it is not unloaded.

        Raises:
            NotFound: if there is no such model or version.
            Corrupt: if its bundle was changed after it was written.
            FailedPrecondition: if it lacks the runtime that the server uses.
        """
        model = await self._current(ref)
        self._models.move_to_end(model.ref)
        model.users += 1
        try:
            yield model
        finally:
            model.users -= 1
            if not model.users:
                self._evict()

    async def load(self, fixed: ModelRef) -> LoadedModel:
        """Return a version after loading and warming it.

        Raises:
            BlemishError: as ``use`` does.
        """
        while (model := self._models.get(fixed)) is None:
            # Shielded, so that a caller that leaves does not stop a load that others wait for.
            await asyncio.shield(self._begin_load(fixed))
        return model

    async def fits(self, fixed: ModelRef) -> bool:
        """Return whether a version is in memory, or can be loaded without unloading another.

        Raises:
            NotFound: if there is no such version.
            Corrupt: if its manifest cannot be read.
        """
        if fixed in self._models:
            return True
        manifest = await asyncio.to_thread(self._store.manifest, fixed)
        return self.bytes + manifest.size_bytes <= self._budget_bytes

    async def warm_up(self, refs: Sequence[ModelRef]) -> None:
        """Load the versions that fit the budget, in their order. Log those that cannot be loaded."""
        for ref in refs:
            try:
                if self._models and not await self.fits(ref):
                    log.warning("model not preloaded", model=str(ref), reason="BLEMISH_MAX_LOADED_BYTES")
                    continue
                await self.load(ref)
            except BlemishError as error:
                log.error("model not preloaded", model=str(ref), reason=str(error))

    def invalidate(self, model: str) -> None:
        """Resolve the names of ``model`` again on their next use."""
        for ref in [ref for ref in self._previous if ref.model == model]:
            self._resolved.pop(ref, None)
            self._resolving.pop(ref, None)  # it may have read the store before the change

    def forget(self, removed: ModelRef) -> None:
        """Unload a removed version, or all versions of a removed model, except those in use."""
        self.invalidate(removed.model)
        for ref in [ref for ref, model in self._models.items() if not model.users]:
            if ref.model == removed.model and removed.version in (None, ref.version):
                self._unload(ref)

    def close(self) -> None:
        """Stop every batcher and load, and cancel the calls that wait for them."""
        for load in self._loading.values():
            load.cancel()
        for model in self._models.values():
            model.batcher.close()
        self._models.clear()

    async def _current(self, ref: ModelRef) -> LoadedModel:
        previous = self._previous.get(ref)
        fixed = await self._resolve(ref)
        if (model := self._models.get(fixed)) is not None:
            return model
        serving = self._models.get(previous) if previous else None
        if serving is None:
            return await self.load(fixed)
        # Serve the previous version until the next resolution; the new one may be loaded by then.
        self._remember(ref, serving.ref)
        if fixed not in self._failed:
            self._begin_load(fixed).add_done_callback(partial(self._note_failure, fixed))
        return serving

    async def _resolve(self, ref: ModelRef) -> ModelRef:
        """Return the fixed version that ``ref`` means. Callers at the same time share one look-up."""
        if (known := self._resolved.get(ref)) is not None:
            return known
        lookup = self._resolving.get(ref)
        if lookup is None:
            lookup = asyncio.create_task(self._look_up(ref))
            self._resolving[ref] = lookup
            lookup.add_done_callback(partial(self._end_look_up, ref))
        fixed = await asyncio.shield(lookup)
        if self._resolving.get(ref) is lookup:
            del self._resolving[ref]
            self._remember(ref, fixed)
        return fixed

    def _remember(self, ref: ModelRef, fixed: ModelRef) -> None:
        self._resolved[ref] = self._previous[ref] = fixed

    async def _look_up(self, ref: ModelRef) -> ModelRef:
        try:
            return await asyncio.to_thread(self._store.resolve, ref)
        except NotFound:
            # Another server or a person may have removed it. A version written in its place must be loaded.
            for known in [known for known in self._models if known.model == ref.model]:
                if not await asyncio.to_thread(self._store.has, known):
                    self.forget(known)
            raise

    def _end_look_up(self, ref: ModelRef, lookup: "asyncio.Task[ModelRef]") -> None:
        if (lookup.cancelled() or lookup.exception()) and self._resolving.get(ref) is lookup:
            del self._resolving[ref]

    def _begin_load(self, fixed: ModelRef) -> "asyncio.Task[LoadedModel]":
        task = self._loading.get(fixed)
        if task is None:
            task = asyncio.create_task(self._load(fixed))
            self._loading[fixed] = task
            task.add_done_callback(lambda _: self._loading.pop(fixed, None))
        return task

    def _note_failure(self, fixed: ModelRef, load: "asyncio.Task[LoadedModel]") -> None:
        if not load.cancelled() and (error := load.exception()):
            self._failed[fixed] = True
            log.error("model not loaded, previous version serves", model=str(fixed), reason=str(error))

    async def _load(self, ref: ModelRef) -> LoadedModel:
        async with self._load_lock:
            folder = self._store.folder(ref.model, ref.version or 0)
            manifest, detector = await asyncio.to_thread(
                load_for_serving, folder, self._device, self._runtime
            )
            await self._run_once(detector)
        calibrations = CalibrationLog(folder, manifest, manifest.calibration_under(detector.runtime.name))
        model = LoadedModel(
            ref,
            manifest,
            detector,
            Batcher(
                partial(_prepare, detector, calibrations, self._limits, manifest.white_level),
                partial(_inspect, detector, manifest),
                self._policy,
                run_alone=partial(_inspect_on_all_cores, detector, manifest),
                busy=self._busy,
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
        self._evict(newest=ref)
        return model

    async def _run_once(self, detector: ServedDetector[Any]) -> None:
        """Score a grey image in every lane, in each batch size, and alone: first passes allocate memory."""
        side = detector.input_size
        height, width = detector.mask.shape if detector.mask else detector.frame or (side, side)
        grey = detector.prepare(np.full((height, width, 3), 128, np.uint8))
        for size in {1, self._policy.max_batch_size}:
            lanes = [asyncio.to_thread(detector.predict, [grey] * size) for _ in range(self._policy.lanes)]
            await asyncio.gather(*lanes)
        if self._policy.lanes > 1:
            await asyncio.to_thread(_predict_on_all_cores, detector, grey)

    def _evict(self, newest: ModelRef | None = None) -> None:
        # A version in use stays, even if the budget is exceeded for a while.
        idle = [ref for ref, model in self._models.items() if not model.users and ref != newest]
        while self.bytes > self._budget_bytes and len(self._models) > 1 and idle:
            self._unload(idle.pop(0))

    def _unload(self, ref: ModelRef) -> None:
        model = self._models.pop(ref)
        model.batcher.close()
        log.info("model unloaded", model=str(ref), bytes=model.bytes)


def _prepare(
    detector: ServedDetector[Any],
    calibrations: CalibrationLog,
    limits: ImageLimits,
    level: WhiteLevel | None,
    request: ScoringRequest,
) -> Prepared:
    capture = request.claim()
    request.check_latency(capture)
    image, region, mask = capture.image, capture.image.region, detector.mask
    notes: tuple[str, ...] = ()
    alignment = None
    if mask is None:
        decoded = image.decoded(limits, level)
        shown = pixels = decoded.pixels
        prepared = detector.prepare(pixels)
        if region is None and (note := _size_note(pixels, detector.frame)):
            notes = (note,)
    else:
        decoded = image.whole(limits, level)
        frame = decoded.pixels
        shown = frame if region is None else region.crop(frame)
        height, width, _ = frame.shape
        seen = mask.apply(frame, region)
        prepared, pixels, alignment = detector.prepare_masked(seen), seen.pixels, seen.alignment
        found = (mask.note((height, width)), alignment.note if alignment is not None else "")
        notes = tuple(note for note in found if note)
    if decoded.depth is not None and (note := decoded.depth.note()):
        notes = (*notes, note)
    height, width, _ = pixels.shape
    return Prepared(
        request,
        capture,
        prepared,
        calibrations.newest(),
        (height, width),
        pixels if request.needs_regions else None,
        notes,
        alignment,
        shown if request.with_preview else None,
    )


def _size_note(pixels: NDArray[np.uint8], learned: Size | None) -> str:
    """Return a note about a frame that has another size than the training images, or an empty string."""
    height, width, _ = pixels.shape
    if learned is None or learned == (height, width):
        return ""
    return (
        f"the frame is {width} x {height} px, but the model learned from {learned[1]} x {learned[0]}; "
        "it was scored at the same scale"
    )


def _inspect(
    detector: ServedDetector[Any], manifest: Manifest, batch: Sequence[Prepared]
) -> list[Inspection]:
    """Score a batch: the images that need patch features in one pass, all others in another."""
    with_patches = [each.input for each in batch if each.request.with_patches]
    without = [each.input for each in batch if not each.request.with_patches]
    patches = iter(detector.predict_with_patches(with_patches) if with_patches else ())
    predictions = iter(detector.predict(without) if without else ())
    inspections = []
    for each in batch:
        features = next(patches) if each.request.with_patches else None
        inspection = Inspection(
            each.capture,
            features.prediction if features else next(predictions),
            manifest,
            each.revision,
            detector.runtime.name,
            each.shape,
            patches=features,
            notes=each.notes,
            alignment=each.alignment,
        )
        if each.pixels is not None:
            inspection = localized(
                inspection,
                each.pixels,
                false_reject_rate=each.request.false_reject_rate,
                with_mask=each.request.with_mask,
            )
        if each.shown is not None and (
            each.request.previews_good or _is_anomalous(inspection, each.request)
        ):
            inspection = replace(inspection, preview=preview(each.shown, _PREVIEW_PX, _PREVIEW_QUALITY))
        inspections.append(inspection)
    return inspections


def _inspect_on_all_cores(
    detector: ServedDetector[Any], manifest: Manifest, batch: Sequence[Prepared]
) -> list[Inspection]:
    with all_cores():
        return _inspect(detector, manifest, batch)


def _predict_on_all_cores(detector: ServedDetector[Any], image: Any) -> None:
    with all_cores():
        detector.predict([image])


def _is_anomalous(inspection: Inspection, request: ScoringRequest) -> bool:
    """Return the verdict by the request's false-reject rate, if it has one."""
    target = request.false_reject_rate
    return (inspection if target is None else inspection.at_false_reject_rate(target)).is_anomalous
