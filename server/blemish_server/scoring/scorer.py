# SPDX-License-Identifier: Apache-2.0
"""The path from an image to its inspection: admission, model cache, batcher."""

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from blemish_core.platform.errors import Overloaded
from blemish_core.platform.names import ModelRef
from blemish_server.scoring.inspection import Inspection, ScoringRequest
from blemish_server.scoring.model_cache import ModelCache

# A caller may hold this many times the bytes that are free, so a single one gets all but a ninth. These are
# dynamic thresholds (Choudhury and Hahne, IEEE/ACM Transactions on Networking 6, 1998).
_FREE_FACTOR = 8


class Scorer:
    """Scores images with the models in the cache, within a limit on the bytes in progress."""

    def __init__(self, models: ModelCache, max_waiting_bytes: int) -> None:
        self._models = models
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes: Counter[Hashable] = Counter()
        """Bytes in progress by caller."""

    @property
    def waiting_bytes(self) -> int:
        """Size of the encoded images in the queue or in progress."""
        return self._waiting_bytes.total()

    @property
    def callers(self) -> int:
        """Number of callers with images in the queue or in progress."""
        return len(self._waiting_bytes)

    async def warm_up(self, ref: ModelRef) -> ModelRef:
        """Load the version that ``ref`` means now, and return it.

        Raises:
            NotFound: if there is no such model or version.
            Corrupt: if its bundle was changed after it was written.
            FailedPrecondition: if it lacks the runtime that the server uses.
        """
        async with self._models.use(ref) as model:
            return model.ref

    async def score(self, request: ScoringRequest) -> Inspection:
        """Score an image with the version that its model reference means now.

        Raises:
            InvalidRequest: if ``request.claim`` rejects the image.
            InvalidImage: if the data is not an image within the limits.
            NotFound: if there is no such model or version.
            Overloaded: if too many images or bytes are in progress, in total or of this caller.
            DeadlineExceeded: if the deadline or the maximum latency cannot be met.
            Corrupt: if the bundle or its calibration cannot be read.
        """
        queue = request.queue
        with self._reserve(request.size_bytes, queue.caller):
            async with self._models.use(request.model) as model:
                request.on_version(model.ref)
                completed = await model.batcher.submit(
                    request,
                    caller=queue.caller,
                    priority=queue.priority,
                    deadline=queue.deadline,
                    limit=queue.limit,
                )
                model.usage.add(completed.timings)
                return replace(completed.result, timings=completed.timings)

    @contextmanager
    def _reserve(self, size_bytes: int, caller: Hashable) -> Iterator[None]:
        waiting = self.waiting_bytes
        free = self._max_waiting_bytes - waiting
        if size_bytes > free or self._waiting_bytes[caller] + size_bytes > _FREE_FACTOR * free:
            raise Overloaded(
                f"images of {waiting >> 20} MiB are in progress already; retry later, or raise "
                "BLEMISH_MAX_WAITING_BYTES"
            )
        self._waiting_bytes[caller] += size_bytes
        try:
            yield
        finally:
            self._waiting_bytes[caller] -= size_bytes
            if not self._waiting_bytes[caller]:
                del self._waiting_bytes[caller]
