# SPDX-License-Identifier: Apache-2.0
"""The model versions in memory, each with its batcher; the least recently used makes room."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog
from torch import Tensor

from blemish_core.batching import Batcher, BatchingPolicy
from blemish_core.bundle import Manifest, load_detector
from blemish_core.calibration_log import CalibrationLog
from blemish_core.detectors.detector import Detector, Outcome
from blemish_core.errors import Overloaded
from blemish_core.models import ModelStore
from blemish_core.names import ModelRef
from blemish_core.runtimes.choice import RuntimeChoice

log = structlog.get_logger(__name__)


@dataclass
class LoadedModel:
    """A version that is ready to score."""

    manifest: Manifest
    detector: Detector
    calibrations: CalibrationLog
    batcher: Batcher[Tensor, Outcome]
    loop: asyncio.Task[None]
    """Runs the batcher."""
    room: asyncio.Semaphore
    """For as many images as may wait; who is patient gets in by turns."""
    users: int = 0


class LoadedModels:
    """Loads versions when they are first asked for and keeps up to ``capacity`` of them."""

    def __init__(
        self,
        store: ModelStore,
        *,
        device: str,
        runtime: RuntimeChoice,
        policy: BatchingPolicy,
        capacity: int,
    ) -> None:
        self._store = store
        self._device = device
        self._runtime = runtime
        self._policy = policy
        self._capacity = capacity
        self._models: OrderedDict[ModelRef, LoadedModel] = OrderedDict()
        self._loading: dict[ModelRef, asyncio.Task[LoadedModel]] = {}

    @property
    def runtimes(self) -> dict[str, str]:
        """The loaded versions and what runs them, most recently used first."""
        return {str(ref): model.detector.runtime.name for ref, model in reversed(self._models.items())}

    @asynccontextmanager
    async def use(self, ref: ModelRef, *, patient: bool = False) -> AsyncIterator[LoadedModel]:
        """Hold the version that ``ref`` means now; it is not unloaded meanwhile.

        Raises:
            NotFound: if there is no such model or version.
            Corrupt: if its bundle is not what was written.
            NotPossibleYet: if it lacks the runtime that the server is to use.
            Overloaded: if as many hold it as may wait for it; who is ``patient`` waits until one leaves.
        """
        fixed = await asyncio.to_thread(self._store.resolve, ref)
        while (model := self._models.get(fixed)) is None:
            # One load for all who wait for it; a waiter that leaves does not stop it.
            task = self._loading.get(fixed)
            if task is None:
                task = asyncio.create_task(self._load(fixed))
                self._loading[fixed] = task
                task.add_done_callback(lambda _: self._loading.pop(fixed, None))
            await asyncio.shield(task)
        self._models.move_to_end(fixed)
        # At the door: the batcher would refuse it too, but only after the image was decoded.
        if model.room.locked() and not patient:
            raise Overloaded(
                f"{self._policy.max_queued} images wait for {fixed} already; retry later, or raise "
                "BLEMISH_MAX_QUEUED"
            )
        model.users += 1
        try:
            async with model.room:
                yield model
        finally:
            model.users -= 1

    def close(self) -> None:
        """Stop every batcher; callers still waiting are cancelled."""
        for model in self._models.values():
            model.loop.cancel()
        self._models.clear()

    async def _load(self, ref: ModelRef) -> LoadedModel:
        folder = self._store.folder(ref.model, ref.version or 0)
        manifest, detector = await asyncio.to_thread(load_detector, folder, self._device, self._runtime)
        batcher = Batcher(detector.inspect, self._policy)
        calibrations = CalibrationLog(folder, manifest, manifest.calibration_under(detector.runtime.name))
        loop = asyncio.create_task(batcher.run())
        room = asyncio.Semaphore(self._policy.max_queued)
        model = LoadedModel(manifest, detector, calibrations, batcher, loop, room)
        self._models[ref] = model
        log.info("model loaded", model=str(ref), device=self._device, runtime=detector.runtime.name)
        self._make_room(ref)
        return model

    def _make_room(self, newest: ModelRef) -> None:
        # One in use stays, even if that means one too many for a while.
        idle = [ref for ref, model in self._models.items() if not model.users and ref != newest]
        for ref in idle[: max(0, len(self._models) - self._capacity)]:
            self._models.pop(ref).loop.cancel()
            log.info("model unloaded", model=str(ref))
