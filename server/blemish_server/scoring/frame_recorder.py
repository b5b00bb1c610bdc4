# SPDX-License-Identifier: Apache-2.0
"""Keeps scored frames for search: written in batches, beside the scoring and never before it.

What waits to be written is bounded, in frames and in bytes. A frame that finds no room is not kept, and
counted; its verdict has left by then. Where Qdrant is away the batch in hand is tried until it is back.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import structlog

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput
from blemish_core.platform.errors import BlemishError, InvalidImage, Unavailable
from blemish_core.platform.names import ModelRef
from blemish_core.search.frame_store import FrameStore, encode_image
from blemish_core.search.item import CAMERA, Item, item_id
from blemish_core.search.query import Vector
from blemish_core.search.search_index import UNLABELLED_FRAMES, SearchIndex
from blemish_server.scoring.scorer import Inspected
from blemish_server.scoring.waiting import either

_MOST_WAITING = 1024
_MOST_BYTES = 256 << 20
_BATCH = 64
_GATHER_S = 0.5  # others may come meanwhile: a batch costs Qdrant little more than one frame does
_RETRY_S = 1.0
_SWEEP_S = 600.0
_TELL_S = 60.0
_SWEPT_AT_ONCE = 1000

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Retention:
    """How many frames of a model version are kept, and how long; labelled ones stay."""

    frames: int
    days: float


@dataclass(frozen=True)
class _Waiting:
    picture: ImageInput
    version: ModelRef
    camera: str
    time: datetime
    score: float
    p_value: float
    anomalous: bool
    embedding: Vector


class FrameRecorder:
    def __init__(
        self,
        index: SearchIndex,
        frames: FrameStore,
        limits: ImageLimits,
        retention: Retention,
        is_there: Callable[[ModelRef], bool],
    ) -> None:
        """Keep frames of versions that are in the store, as ``is_there`` says."""
        self._index = index
        self._frames = frames
        self._limits = limits
        self._retention = retention
        self._is_there = is_there
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._came = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._prepared: set[ModelRef] = set()
        self._told_s = 0.0
        self.kept = 0
        self.dropped = 0
        """Frames for which there was no room, or no model any more."""

    def offer(self, picture: ImageInput, done: Inspected, camera: str, taken: datetime | None) -> bool:
        """Have a frame kept, unless too many wait; returns at once."""
        if len(self._waiting) >= _MOST_WAITING or self._bytes + len(picture.data) > _MOST_BYTES:
            self.dropped += 1
            self._tell()
            return False
        judge = done.calibration.calibration
        score = done.outcome.score
        self._waiting.append(
            _Waiting(
                picture,
                ModelRef(done.manifest.model, done.manifest.version),
                camera,
                taken or datetime.now(UTC),
                score,
                judge.p_value(score),
                judge.anomalous(score),
                done.outcome.embedding,
            )
        )
        self._bytes += len(picture.data)
        self._idle.clear()
        self._came.set()
        return True

    async def run(self) -> None:
        """Write what comes, and take out what is too old or too much, until cancelled."""
        sweep_at = time.monotonic() + _SWEEP_S
        while True:
            self._came.clear()
            if not self._waiting:
                self._idle.set()
                await either(self._came, max(0.0, sweep_at - time.monotonic()))
            if time.monotonic() >= sweep_at:
                await self.sweep()
                sweep_at = time.monotonic() + _SWEEP_S
            if self._waiting:
                if len(self._waiting) < _BATCH:
                    await asyncio.sleep(_GATHER_S)
                await self._write_batch()

    async def drain(self, within_s: float) -> None:
        """Wait until all is written, but no longer than ``within_s``."""
        await either(self._idle, within_s)

    async def sweep(self) -> None:
        """Take out what is too old or too much, of every version, also where no more frames come."""
        try:
            versions = await asyncio.to_thread(self._index.published)
        except Unavailable:
            return  # health tells of it
        for version in versions:
            try:
                await asyncio.to_thread(self._sweep, version)
            except BlemishError as error:
                log.warning("frames not swept", model=str(version), reason=str(error))

    async def _write_batch(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        self._bytes -= sum(len(one.picture.data) for one in batch)
        while True:
            try:
                await asyncio.to_thread(self._write, batch)
                return
            except Unavailable:
                await asyncio.sleep(_RETRY_S)
            except (BlemishError, OSError) as error:
                self.dropped += len(batch)
                log.error("frames not kept", frames=len(batch), reason=str(error))
                return
            except Exception:
                self.dropped += len(batch)
                log.exception("frames not kept; this is a bug", frames=len(batch))
                return

    def _write(self, batch: list[_Waiting]) -> None:
        for version in {one.version for one in batch}:
            items, vectors = [], []
            of_it = [one for one in batch if one.version == version]
            if not self._is_there(version):
                self._prepared.discard(version)
                self.dropped += len(of_it)
                log.info(
                    "the model is gone, its frames are not kept", model=str(version), frames=len(of_it)
                )
                continue
            for one in of_it:
                try:
                    data = encode_image(one.picture, self._limits)
                except InvalidImage:  # it was scored, so this does not happen
                    continue
                sha256 = hashlib.sha256(data).hexdigest()
                self._frames.put(version.model, sha256, data)
                items.append(
                    Item(
                        item_id(version, sha256),
                        sha256=sha256,
                        score=one.score,
                        p_value=one.p_value,
                        anomalous=one.anomalous,
                        camera=one.camera,
                        source=CAMERA,
                        time=one.time,
                    )
                )
                vectors.append(one.embedding)
            if items:
                self._make_room_for(version, len(vectors[0]))
                self._index.put(version, items, np.stack(vectors))
                self.kept += len(items)

    def _make_room_for(self, version: ModelRef, dimensions: int) -> None:
        """Have an index to write to; one that nobody else has begun is searched from its first frame on."""
        if version in self._prepared:
            return
        if self._index.prepare(version, dimensions):
            self._index.publish(version)
        self._prepared.add(version)

    def _sweep(self, version: ModelRef) -> None:
        too_many = self._index.count(version, UNLABELLED_FRAMES) - self._retention.frames
        before = datetime.now(UTC) - timedelta(days=self._retention.days)
        removed = 0
        while True:
            oldest = self._index.oldest(version, UNLABELLED_FRAMES, _SWEPT_AT_ONCE)
            gone = [item for number, item in enumerate(oldest) if number < too_many or item.time < before]
            self._index.remove(version, [item.id for item in gone])
            for item in gone:
                self._frames.remove(version.model, item.sha256)
            removed += len(gone)
            too_many -= len(gone)
            if len(gone) < _SWEPT_AT_ONCE:
                break
        if removed:
            log.info("frames swept", model=str(version), frames=removed)

    def _tell(self) -> None:
        if time.monotonic() >= self._told_s + _TELL_S:
            self._told_s = time.monotonic()
            log.warning("frames not kept for want of room", so_far=self.dropped)
