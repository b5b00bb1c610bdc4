# SPDX-License-Identifier: Apache-2.0
"""From the bytes of an image to what a model says of it: decode, prepare, batch, calibrate."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

from blemish_core.bundle import Manifest
from blemish_core.calibration_log import Revision
from blemish_core.detectors.detector import Outcome
from blemish_core.errors import Overloaded
from blemish_core.images import ImageLimits, decode
from blemish_core.names import ModelRef
from blemish_server.loaded import LoadedModel, LoadedModels


@dataclass(frozen=True)
class Inspected:
    """An outcome, the model version it is of, what judges it, and where the time went."""

    outcome: Outcome
    manifest: Manifest
    calibration: Revision
    runtime: str
    """What ran the network."""
    decode_s: float
    queue_s: float
    inference_s: float


class Inspector:
    def __init__(self, models: LoadedModels, limits: ImageLimits, max_waiting_bytes: int) -> None:
        self._models = models
        self._limits = limits
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes = 0
        # A decoded image may be a hundred times its encoded size: only so many at once.
        self._decoding = asyncio.Semaphore(os.cpu_count() or 1)

    async def ready(self, ref: ModelRef) -> None:
        """Have the version that ``ref`` means now in memory.

        Raises:
            NotFound: if there is no such model or version.
            Corrupt: if its bundle is not what was written.
            NotPossibleYet: if it lacks the runtime that the server is to use.
        """
        async with self._models.use(ref, patient=True):
            pass

    async def inspect(self, image: bytes, ref: ModelRef, *, patient: bool = False) -> Inspected:
        """Score an encoded image with the version that ``ref`` means now.

        Raises:
            InvalidImage: if it is not an image within the limits.
            NotFound: if there is no such model or version.
            Overloaded: if too many images wait already; who is ``patient`` waits where it is their number,
                not their bytes.
            Corrupt: if the bundle or its calibration cannot be read.
        """
        with self._room_for(image):
            async with self._models.use(ref, patient=patient) as model:
                async with self._decoding:
                    began = time.perf_counter()
                    prepared, revision = await asyncio.to_thread(self._prepare, model, image)
                    decode_s = time.perf_counter() - began
                answer = await model.batcher.submit(prepared)
                return Inspected(
                    answer.result,
                    model.manifest,
                    revision,
                    model.detector.runtime.name,
                    decode_s,
                    answer.queued_s,
                    answer.computed_s,
                )

    def _prepare(self, model: LoadedModel, image: bytes) -> tuple[Tensor, Revision]:
        """Return the model's input, and the calibration in force now that the request has begun."""
        return model.detector.prepare(decode(image, self._limits)), model.calibrations.newest()

    @contextmanager
    def _room_for(self, image: bytes) -> Iterator[None]:
        if self._waiting_bytes + len(image) > self._max_waiting_bytes:
            raise Overloaded(
                f"images of {self._waiting_bytes >> 20} MiB are being worked on already; retry later, "
                "or raise BLEMISH_MAX_WAITING_BYTES"
            )
        self._waiting_bytes += len(image)
        try:
            yield
        finally:
            self._waiting_bytes -= len(image)
