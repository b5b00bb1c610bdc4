# SPDX-License-Identifier: Apache-2.0
"""Recording of scored frames for search, in batches and off the scoring path.

The queue is bounded in frames and bytes. A frame that does not fit is dropped and counted; its response has
been sent by then. While Qdrant is unavailable, the current batch is retried.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import structlog

from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput
from blemish_core.imaging.white_level import WhiteLevel
from blemish_core.localization.defect_region import DefectRegion
from blemish_core.platform.errors import BlemishError, DiskFull, InvalidImage, Unavailable
from blemish_core.platform.names import ModelRef, item_name
from blemish_core.search.frame_store import FrameStore, encode_image
from blemish_core.search.item import CAMERA, Item, item_id
from blemish_core.search.query import Vector
from blemish_core.search.search_index import UNLABELLED_FRAMES, SearchIndex
from blemish_server.scoring.background_queue import BackgroundQueue
from blemish_server.scoring.inspection import Inspection

_MAX_QUEUED = 1024
_MAX_QUEUED_BYTES = 256 << 20
_BATCH = 64
_COLLECT_S = 0.5  # time for a batch to fill: it costs Qdrant little more than a single frame
_RETRY_S = 1.0
_SWEEP_EVERY_S = 600.0
_LOG_EVERY_S = 60.0
_SWEEP_BATCH = 1000
# The same text for each frame, because streams repeat no note.
_DISK_FULL = "the frame is not kept, because the disk of the server's store is full; free some space there"
_QUEUE_FULL = "the frame is not kept, because too many wait to be written; keep fewer frames"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class FrameRetention:
    """Limits on the recorded frames of a model version. Labelled frames are exempt."""

    max_frames: int
    max_days: float


@dataclass(frozen=True)
class _RecordedFrame:
    """The parts of an inspection that are stored."""

    image: ImageInput
    version: ModelRef
    camera: str
    time: datetime
    score: float
    p_value: float
    anomalous: bool
    embedding: Vector
    regions: tuple[DefectRegion, ...]
    level: WhiteLevel | None
    """White level of the version."""
    name: str


def recorded_item(inspection: Inspection) -> str:
    """Return the name of the item under which an image is recorded, ``items/{uuid}``.

    Returns:
        Empty for a raw image or a region: its item is named after its file, which is encoded later.
    """
    image = inspection.capture.image
    if image.layout is not None or image.region is not None:
        return ""
    return item_name(item_id(inspection.version, hashlib.sha256(image.data).hexdigest()))


class FrameRecorder:
    """Writes frames to the frame store and the search index, and deletes those past their retention."""

    def __init__(
        self,
        index: SearchIndex,
        frames: FrameStore,
        limits: ImageLimits,
        retention: FrameRetention,
        exists: Callable[[ModelRef], bool],
        shortage: Callable[[], str] = str,
    ) -> None:
        """Prepare a recorder.

        Args:
            index: index of the frames.
            frames: store of their images.
            limits: limits of an image.
            retention: limits of the recorded frames.
            exists: returns whether a version exists; frames of others are dropped.
            shortage: returns the reason why the disk has no space for frames, or an empty string.
        """
        self._index = index
        self._frames = frames
        self._limits = limits
        self._retention = retention
        self._exists = exists
        self._shortage = shortage
        self._queue: BackgroundQueue[_RecordedFrame] = BackgroundQueue(_MAX_QUEUED, _MAX_QUEUED_BYTES)
        self._indexed: set[ModelRef] = set()
        self._logged_s = 0.0
        self.recorded = 0
        self.dropped = 0
        """Frames without space in the queue or on the disk, or that could not be written, or whose model
        was removed."""
        self.refusal = ""
        """Reason why the last frame that was not queued is not kept, for people."""

    def enqueue(self, inspection: Inspection) -> bool:
        """Queue a frame without waiting. Return False if the queue or the disk is full."""
        if shortage := self._shortage():
            self._refuse(_DISK_FULL, shortage)
            return False
        capture = inspection.capture
        frame = _RecordedFrame(
            capture.image,
            inspection.version,
            capture.camera,
            capture.time or datetime.now(UTC),
            inspection.score,
            inspection.p_value,
            inspection.is_anomalous,
            inspection.prediction.embedding,
            inspection.regions or (),
            inspection.manifest.white_level,
            capture.name,
        )
        if self._queue.put(frame, size_bytes=len(capture.image.data)):
            return True
        self._refuse(_QUEUE_FULL, "the queue is full")
        return False

    async def run(self) -> None:
        """Write queued frames and sweep old ones until cancelled."""
        sweep_at = time.monotonic() + _SWEEP_EVERY_S
        while True:
            await self._queue.wait(sweep_at - time.monotonic())
            if time.monotonic() >= sweep_at:
                await self.sweep()
                sweep_at = time.monotonic() + _SWEEP_EVERY_S
            if len(self._queue):
                if len(self._queue) < _BATCH:
                    await asyncio.sleep(_COLLECT_S)
                await self._write_batch()

    async def drain(self, timeout_s: float) -> None:
        """Wait until all queued frames are written, for ``timeout_s`` at most."""
        await self._queue.drain(timeout_s)

    async def sweep(self) -> None:
        """Delete frames past their retention, also of versions that receive no more frames."""
        try:
            versions = await asyncio.to_thread(self._index.published)
        except (Unavailable, DiskFull):
            return  # the health check reports it
        for version in versions:
            try:
                await asyncio.to_thread(self._sweep, version)
            except BlemishError as error:
                log.warning("frames not swept", model=str(version), reason=str(error))

    async def _write_batch(self) -> None:
        batch = self._queue.take(_BATCH)
        while True:
            try:
                await asyncio.to_thread(self._write, batch)
                return
            except Unavailable:
                await asyncio.sleep(_RETRY_S)
            except (BlemishError, OSError) as error:
                self.dropped += len(batch)
                log.error("frames not recorded", frames=len(batch), reason=str(error))
                return
            except Exception:
                self.dropped += len(batch)
                log.exception("frames not recorded; this is a bug", frames=len(batch))
                return

    def _write(self, batch: list[_RecordedFrame]) -> None:
        for version in {frame.version for frame in batch}:
            items, vectors = [], []
            frames = [frame for frame in batch if frame.version == version]
            if not self._exists(version):
                self._indexed.discard(version)
                self.dropped += len(frames)
                log.info("frames of removed model dropped", model=str(version), frames=len(frames))
                continue
            for frame in frames:
                try:
                    data = encode_image(frame.image, self._limits, frame.level)
                except InvalidImage:  # cannot happen, because the image was decoded for scoring
                    continue
                sha256 = hashlib.sha256(data).hexdigest()
                self._frames.put(version.model, sha256, data)
                items.append(
                    Item(
                        item_id(version, sha256),
                        sha256=sha256,
                        score=frame.score,
                        p_value=frame.p_value,
                        anomalous=frame.anomalous,
                        camera=frame.camera,
                        name=frame.name,
                        source=CAMERA,
                        time=frame.time,
                        regions=frame.regions,
                    )
                )
                vectors.append(frame.embedding)
            if items:
                self._prepare_index(version, len(vectors[0]))
                self._index.put(version, items, np.stack(vectors))
                self.recorded += len(items)

    def _prepare_index(self, version: ModelRef, dimensions: int) -> None:
        """Create the index if needed. Publish a new one at once, so that its first frames are found."""
        if version in self._indexed:
            return
        if self._index.prepare(version, dimensions):
            self._index.publish(version)
        self._indexed.add(version)

    def _sweep(self, version: ModelRef) -> None:
        excess = self._index.count(version, UNLABELLED_FRAMES) - self._retention.max_frames
        expiry = datetime.now(UTC) - timedelta(days=self._retention.max_days)
        removed = 0
        while True:
            oldest = self._index.oldest(version, UNLABELLED_FRAMES, _SWEEP_BATCH)
            expired = [item for number, item in enumerate(oldest) if number < excess or item.time < expiry]
            self._index.remove(version, [item.id for item in expired])
            for item in expired:
                self._frames.remove(version.model, item.sha256)
            removed += len(expired)
            excess -= len(expired)
            if len(expired) < _SWEEP_BATCH:
                break
        if removed:
            log.info("frames swept", model=str(version), frames=removed)

    def _refuse(self, note: str, reason: str) -> None:
        self.dropped += 1
        self.refusal = note
        if time.monotonic() >= self._logged_s + _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            log.warning("frame not kept", reason=reason, dropped=self.dropped)
