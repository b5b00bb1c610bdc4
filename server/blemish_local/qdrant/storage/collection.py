# SPDX-License-Identifier: Apache-2.0
"""One collection: a shard of the engine and the request that created it.

Every call into the engine holds Python's global interpreter lock, so threads would gain nothing. The
methods run in the caller's thread, one at a time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import Missing
from blemish_local.qdrant.storage.engine import engine_errors
from blemish_local.qdrant.translation import groups, queries, reads, schema, vectors, writes
from blemish_local.qdrant.translation.groups import GroupFilter, GroupId
from blemish_local.qdrant.translation.ids import Id, parse_ids
from blemish_local.qdrant.translation.queries import QueryExamples


@dataclass
class UnsettledWrites:
    """Writes since the last settling; times are those of the monotonic clock."""

    first_s: float
    """Time of the first write."""
    last_request_s: float
    """Time of the last write or search."""
    points: int = 0
    """Points written, where a point written twice counts twice."""

    def are_due(self, quiet_s: float, max_age_s: float, max_points: int) -> bool:
        """Return True after ``quiet_s`` without a request, or if one of the two limits is reached."""
        now_s = time.monotonic()
        age_s, pause_s = now_s - self.first_s, now_s - self.last_request_s
        return pause_s >= quiet_s or age_s >= max_age_s or self.points >= max_points


class Collection:
    """A collection with one vector per point.

    All methods may raise RequestRejected before they change anything, and EngineFailed.
    """

    def __init__(self, shard: qe.EdgeShard, created: pb.CreateCollection) -> None:
        self._shard = shard
        self._created = created
        self._size = schema.vector_params(created).size
        self.unsettled: UnsettledWrites | None = None
        """Writes that wait for ``settle``; None if there are none."""

    @classmethod
    def create(cls, path: Path, request: pb.CreateCollection) -> "Collection":
        """Create the shard in a new folder."""
        with engine_errors():
            shard = qe.EdgeShard.create(str(path), schema.parse_collection(request))
            shard.flush()
        return cls(shard, request)

    @classmethod
    def load(cls, path: Path, created: pb.CreateCollection) -> "Collection":
        """Open the shard in a folder; ``created`` is the request that created it."""
        with engine_errors():
            return cls(qe.EdgeShard.load(str(path)), created)

    def describe(self) -> pb.CollectionInfo:
        with engine_errors():
            return schema.collection_to_proto(self._created, self._shard.info())

    # Writes. Each request is parsed completely, and rejected as a whole, before the first point is written.
    # Only a missing point stops the engine half-way, as it does in a Qdrant server.

    def upsert(self, request: pb.UpsertPoints) -> None:
        self._write(lambda: writes.parse_upsert(request, self._size), points=len(request.points))

    def delete(self, request: pb.DeletePoints) -> None:
        self._write(lambda: writes.parse_delete(request))

    def set_payload(self, request: pb.SetPayloadPoints) -> None:
        self._write(lambda: writes.parse_set_payload(request))

    def delete_payload(self, request: pb.DeletePayloadPoints) -> None:
        self._write(lambda: writes.parse_delete_payload(request))

    def create_field_index(self, request: pb.CreateFieldIndexCollection) -> None:
        kind = schema.parse_field_type(request)
        self._write(lambda: qe.UpdateOperation.create_field_index(request.field_name, kind))

    # Reads.

    def retrieve(self, request: pb.GetPoints) -> list[qe.Record]:
        with engine_errors():
            return self._shard.retrieve(
                [*parse_ids(request.ids)],
                reads.parse_payload_selector(request, default=True),
                reads.parse_vectors_selector(request),
            )

    def scroll(self, request: pb.ScrollPoints) -> "tuple[list[qe.Record], qe.PointId | None]":
        with engine_errors():
            return self._shard.scroll(reads.parse_scroll(request))

    def count(self, request: pb.CountPoints) -> int:
        with engine_errors():
            return self._shard.count(reads.parse_count(request))

    def facet(self, request: pb.FacetCounts) -> list[qe.FacetHit]:
        with engine_errors():
            hits = self._shard.facet(reads.parse_facet(request)).hits
        # The engine also returns values that no point has any more.
        return [hit for hit in hits if hit.count]

    def query(self, request: pb.QueryPoints) -> list[pb.ScoredPoint]:
        """Return the points found, best first."""
        self._note_request()
        with engine_errors():
            found = self._shard.query(self._parse_query(request))
        return reads.hits_to_proto(request, found)

    def query_groups(self, request: pb.QueryPointGroups) -> list[tuple[GroupId, list[pb.ScoredPoint]]]:
        """Return the groups with their points, both best first."""
        by, (limit, size) = request.group_by, groups.parse_limits(request)

        def rank(limit: int, among: GroupFilter) -> Sequence[qe.ScoredPoint]:
            query = self._parse_query(groups.ranking_query(request, limit), among.to_engine(by))
            return self._shard.query(query)

        self._note_request()
        with engine_errors():
            found = groups.gather(rank, by, limit, size)
            # A point may be in several groups.
            points = {point.id: point for hits in found.values() for point in hits}
            records = self._shard.retrieve(
                [*points],
                reads.parse_payload_selector(request, default=False),
                reads.parse_vectors_selector(request),
            )
        hits = {record.id: reads.hit_to_proto(points[record.id], record) for record in records}
        return [(group, [hits[point.id] for point in ranked]) for group, ranked in found.items()]

    # Maintenance.

    def settle(self) -> None:
        """Merge and quantize grown segments, and flush to files what only the log holds."""
        with engine_errors():
            self._shard.optimize()
            self._shard.flush()
        self.unsettled = None

    def close(self) -> None:
        """Flush and release the files."""
        with engine_errors():
            try:
                self._shard.flush()
            finally:
                self._shard.close()

    def _write(self, parse: Callable[[], qe.UpdateOperation], *, points: int = 0) -> None:
        with engine_errors():
            operation = parse()
            now_s = time.monotonic()
            self.unsettled = self.unsettled or UnsettledWrites(now_s, now_s)
            self.unsettled.points += points
            self._note_request()
            self._shard.update(operation)

    def _note_request(self) -> None:
        if self.unsettled is not None:
            self.unsettled.last_request_s = time.monotonic()

    def _parse_query(self, request: pb.QueryPoints, among: qe.Filter | None = None) -> qe.QueryRequest:
        examples = QueryExamples(self._size, self._vector_of)
        query = queries.parse_query(request, examples)
        parts = (reads.parse_where(request), examples.exclusion(), among)
        where = qe.Filter(must=[part for part in parts if part is not None])
        return reads.parse_search(request, query, where)

    def _vector_of(self, point: Id) -> Any:
        found = self._shard.retrieve([point], False, True)
        if not found:
            raise Missing(f"there is no point {point}; name one that exists")
        vector: Any = found[0].vector
        if not vector:
            raise Missing(f"the point {point} has no vector; name one that has")
        return vectors.checked(vector, self._size)
