# SPDX-License-Identifier: Apache-2.0
"""From a picture to what a model says of it: the door, the model's batcher, the answer."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from blemish_core.detectors.base import PatchFeatures, Prediction
from blemish_core.imaging.image_input import ImageInput
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import Revision
from blemish_core.platform.errors import Overloaded
from blemish_core.platform.names import ModelRef
from blemish_server.scoring.batcher import Patience, Priority
from blemish_server.scoring.model_cache import Asked, ModelCache

# A caller may hold so many times the bytes that are free: one alone all but a ninth, which is for others
# (dynamic thresholds: Choudhury and Hahne, IEEE/ACM Transactions on Networking 6, 1998).
_OF_THE_FREE = 8


@dataclass(frozen=True)
class Inspected:
    """An outcome, the model version it is of, what judges it, and where the time went."""

    outcome: Prediction
    manifest: Manifest
    calibration: Revision
    runtime: str
    """What ran the network."""
    decode_s: float
    queue_s: float
    inference_s: float
    shape: tuple[int, int]
    """(H, W) of the picture, px."""
    look: PatchFeatures | None = None
    """At each of its patches, if asked for."""


@dataclass(frozen=True)
class Terms:
    """How a picture waits, and how closely it is looked at."""

    caller: Hashable
    """Who has one turn among the others: a stream, a caller, or the connection of one who is not known."""
    priority: Priority = Priority.AUDIT
    deadline: float = float("inf")
    """On ``time.monotonic()``'s clock."""
    patience: Patience = Patience.USUAL
    closely: bool = False
    """Whether to look at each patch too."""


class Scorer:
    def __init__(self, models: ModelCache, max_waiting_bytes: int) -> None:
        self._models = models
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes: Counter[Hashable] = Counter()
        """Of each caller."""

    @property
    def waiting_bytes(self) -> int:
        """Of the images that are being worked on or wait."""
        return self._waiting_bytes.total()

    async def ready(self, ref: ModelRef) -> None:
        """Have the version that ``ref`` means now in memory.

        Raises:
            NotFound: if there is no such model or version.
            Corrupt: if its bundle is not what was written.
            FailedPrecondition: if it lacks the runtime that the server is to use.
        """
        async with self._models.use(ref):
            pass

    async def inspect(self, picture: ImageInput, ref: ModelRef, terms: Terms) -> Inspected:
        """Score a picture with the version that ``ref`` means now.

        Raises:
            as ``inspect_taken`` does.
        """
        return await self.inspect_taken(lambda: picture, len(picture.data), ref, terms)

    async def inspect_taken(
        self, take: Callable[[], ImageInput], size: int, ref: ModelRef, terms: Terms
    ) -> Inspected:
        """Score what ``take`` returns once its turn has come, in the thread of a lane.

        Args:
            take: gives the picture; what it raises is raised.
            size: bytes that wait meanwhile, about.
            ref: a model.
            terms: how it waits.

        Raises:
            InvalidImage: if it is not an image within the limits.
            NotFound: if there is no such model or version.
            Overloaded: if too many images wait already, or too many bytes of them, or of this caller's.
            DeadlineExceeded: if the deadline cannot be kept, or has passed.
            Corrupt: if the bundle or its calibration cannot be read.
        """
        with self._room_for(size, terms.caller):
            async with self._models.use(ref) as model:
                answer = await model.batcher.submit(
                    Asked(take, terms.closely),
                    caller=terms.caller,
                    priority=terms.priority,
                    deadline=terms.deadline,
                    patience=terms.patience,
                )
                model.tally.add(answer)
                return Inspected(
                    answer.result.outcome,
                    model.manifest,
                    answer.result.calibration,
                    model.detector.runtime.name,
                    answer.prepared_s,
                    answer.queued_s,
                    answer.computed_s,
                    answer.result.shape,
                    answer.result.look,
                )

    @contextmanager
    def _room_for(self, size: int, caller: Hashable) -> Iterator[None]:
        waiting = self.waiting_bytes
        free = self._max_waiting_bytes - waiting
        if size > free or self._waiting_bytes[caller] + size > _OF_THE_FREE * free:
            raise Overloaded(
                f"images of {waiting >> 20} MiB are being worked on already; retry later, or raise "
                "BLEMISH_MAX_WAITING_BYTES"
            )
        self._waiting_bytes[caller] += size
        try:
            yield
        finally:
            self._waiting_bytes[caller] -= size
            if not self._waiting_bytes[caller]:
                del self._waiting_bytes[caller]
