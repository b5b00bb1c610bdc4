# SPDX-License-Identifier: Apache-2.0
"""Reading of the items that people labelled, with their embeddings, in Qdrant's own messages.

Labels change often and embeddings never, so only the embeddings of items that are new are read. Each class
contributes up to the same number of items: those with the lowest ids, which are digests and thus a random
sample. An index with many labels of one class keeps the rare classes that way.
"""

import asyncio
import math
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Protocol
from uuid import UUID

import numpy as np
from qdrant_client import grpc as qg

from blemish_core.platform.channels import Channel
from blemish_core.platform.names import ModelRef
from blemish_core.search.conditions import And, Condition, equals, one_of
from blemish_core.search.item import Label
from blemish_core.search.labelled_items import NO_CLASS, LabelledItems
from blemish_core.search.qdrant_channel import open_channel
from blemish_core.search.qdrant_errors import missing_as_not_found, translated_errors
from blemish_core.search.qdrant_filter import compile_filter
from blemish_core.search.query import Vector
from blemish_core.search.search_index import TIMEOUT_S, published_alias

MAX_ITEMS = 4096
"""Most labelled items of a version that are read: about 20 MB of embeddings."""
MAX_CLASSES = 127
"""Most classes that are read, those with the most confirmed items."""
_VECTORS_PER_CALL = 64  # parsed in one turn of the event loop's thread pool, well below a lane's frame

_CONFIRMED = equals("label", str(Label.CONFIRMED))
_NOT_A_DEFECT = one_of("label", (Label.FALSE_ALARM, Label.GOOD))


class PointReads(Protocol):
    """The calls of Qdrant's Points service that read labelled items."""

    def Facet(  # noqa: N802 (Qdrant's names)
        self, request: qg.FacetCounts, *, timeout: float
    ) -> Awaitable[qg.FacetResponse]: ...

    def Scroll(  # noqa: N802
        self, request: qg.ScrollPoints, *, timeout: float
    ) -> Awaitable[qg.ScrollResponse]: ...

    def Get(self, request: qg.GetPoints, *, timeout: float) -> Awaitable[qg.GetResponse]: ...  # noqa: N802


class LabelReader:
    """Reads the labelled items of published indexes. It belongs to one event loop."""

    def __init__(self, points: PointReads, channel: Channel | None = None) -> None:
        self._points = points
        self._channel = channel

    @classmethod
    def connect(cls, url: str, grpc_port: int, api_key: str = "", proxy: str = "") -> "LabelReader":
        """Create a reader with a connection of its own, so that it does not delay searches."""
        channel = open_channel(url, grpc_port, api_key, proxy)
        return cls(qg.PointsStub(channel), channel)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def read(self, version: ModelRef, known: LabelledItems) -> LabelledItems:
        """Return the labelled items of a version's index as they are now.

        Args:
            version: version of the index.
            known: items read before, whose embeddings are not read again.

        Raises:
            NotFound: if the version has no published index.
            Unavailable: if Qdrant does not respond within ten seconds.
        """
        with translated_errors(), missing_as_not_found(version):
            classes = await self._classes(version)
            per_class = MAX_ITEMS // (len(classes) + 1)
            labelled = dict.fromkeys(await self._ids(version, _NOT_A_DEFECT, per_class), NO_CLASS)
            for name in classes:
                confirmed = And((_CONFIRMED, equals("label_class", name)))
                labelled |= dict.fromkeys(await self._ids(version, confirmed, per_class), name)
            vectors = {id: known.vectors[row] for row, id in enumerate(known.ids) if id in labelled}
            missing = [id for id in labelled if id not in vectors]
            for start in range(0, len(missing), _VECTORS_PER_CALL):
                vectors |= await self._vectors(version, missing[start : start + _VECTORS_PER_CALL])
        if known.ids and len({len(vector) for vector in vectors.values()}) > 1:
            return await self.read(version, LabelledItems())  # the index was replaced since the last read
        rows = [(id, name, vectors[id]) for id, name in labelled.items() if id in vectors]
        return await asyncio.to_thread(LabelledItems.of, rows)

    async def _classes(self, version: ModelRef) -> list[str]:
        response = await self._points.Facet(
            qg.FacetCounts(
                collection_name=published_alias(version),
                key="label_class",
                filter=compile_filter(_CONFIRMED),
                limit=MAX_CLASSES,
                exact=True,
            ),
            timeout=TIMEOUT_S,
        )
        return [hit.value.string_value for hit in response.hits if hit.value.string_value]

    async def _ids(self, version: ModelRef, where: Condition, limit: int) -> Iterable[UUID]:
        response = await self._points.Scroll(
            qg.ScrollPoints(
                collection_name=published_alias(version),
                filter=compile_filter(where),
                limit=limit,
                with_payload=qg.WithPayloadSelector(enable=False),
            ),
            timeout=TIMEOUT_S,
        )
        return [UUID(point.id.uuid) for point in response.result]

    async def _vectors(self, version: ModelRef, ids: Sequence[UUID]) -> dict[UUID, Vector]:
        response = await self._points.Get(
            qg.GetPoints(
                collection_name=published_alias(version),
                ids=[qg.PointId(uuid=str(id)) for id in ids],
                with_payload=qg.WithPayloadSelector(enable=False),
                with_vectors=qg.WithVectorsSelector(enable=True),
            ),
            timeout=TIMEOUT_S,
        )

        def parse() -> dict[UUID, Vector]:
            parsed = ((UUID(point.id.uuid), _vector(point)) for point in response.result)
            return {id: vector for id, vector in parsed if vector is not None}

        return await asyncio.to_thread(parse)


def _vector(point: Any) -> Vector | None:
    """Return the embedding of a point, of length 1; None if it has none that can be compared."""
    output = point.vectors.vector
    # Qdrant before 1.15 fills the field that later versions replaced.
    vector = np.array(output.dense.data or output.data, np.float32)
    length = float(np.linalg.norm(vector))
    return vector / length if 0 < length < math.inf else None
