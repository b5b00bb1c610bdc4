# SPDX-License-Identifier: Apache-2.0
"""One collection: a shard of the engine, and what was asked for when it was created.

Every call into the engine holds Python's global lock to its end, so threads would gain nothing:
the methods run where they are called, one at a time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import Missing, Unsupported
from blemish_local.qdrant.storage.engine import engine_errors
from blemish_local.qdrant.strict import Strict
from blemish_local.qdrant.translation import groups, schema, scoring
from blemish_local.qdrant.translation import reads as queries
from blemish_local.qdrant.translation import writes as updates
from blemish_local.qdrant.translation.groups import Among, GroupId
from blemish_local.qdrant.translation.ids import Id, all_from_proto
from blemish_local.qdrant.translation.scoring import Examples
from blemish_local.qdrant.translation.vectors import DEFAULT, VectorSpace


@dataclass
class Changes:
    """What was written and is not settled yet; times by the monotonic clock."""

    first_s: float
    last_s: float
    """A write or a search."""
    points: int = 0
    """Written whole, the same one perhaps several times."""

    def are_due(self, quiet_s: float, most_s: float, most_points: int) -> bool:
        """Whether no write or search came for ``quiet_s``, or one of the other two is exceeded."""
        now_s = time.monotonic()
        waited_s, pause_s = now_s - self.first_s, now_s - self.last_s
        return pause_s >= quiet_s or waited_s >= most_s or self.points >= most_points


class Collection:
    """All methods may raise Refusal, before anything was changed, or EngineFailed."""

    def __init__(self, shard: qe.EdgeShard, asked: pb.CreateCollection) -> None:
        self._shard = shard
        self._asked = asked
        self._space = VectorSpace.of(asked.vectors_config)
        self._strict = Strict(asked.strict_mode_config, self._indexed)
        self.changes: Changes | None = None
        """None if all is settled."""

    @classmethod
    def create(cls, path: Path, asked: pb.CreateCollection) -> "Collection":
        with engine_errors():
            shard = qe.EdgeShard.create(str(path), schema.shard_config(asked))
            shard.flush()
        return cls(shard, asked)

    @classmethod
    def load(cls, path: Path, asked: pb.CreateCollection) -> "Collection":
        with engine_errors():
            return cls(qe.EdgeShard.load(str(path)), asked)

    def describe(self) -> pb.CollectionInfo:
        with engine_errors():
            return schema.description(self._asked, self._shard.info())

    @property
    def asked(self) -> pb.CreateCollection:
        """What it was created with, and changed to since."""
        return self._asked

    def change(self, asked: pb.CreateCollection) -> None:
        """Be what ``schema.changed`` made of what was asked."""
        self._asked = asked
        self._strict = Strict(asked.strict_mode_config, self._indexed)

    # Writes. Each is read whole, so refused whole, before the first point is written; only
    # a point that is not there stops the engine half-way, as it does a real Qdrant.

    def upsert(self, request: pb.UpsertPoints) -> None:
        self._write(request, lambda: updates.upsert(request, self._space), points=len(request.points))

    def update_vectors(self, request: pb.UpdatePointVectors) -> None:
        self._write(request, lambda: updates.update_vectors(request, self._space))

    def delete(self, request: pb.DeletePoints) -> None:
        self._write(request, lambda: updates.delete(request.points))

    def set_payload(self, request: pb.SetPayloadPoints) -> None:
        self._write(request, lambda: updates.set_payload(request))

    def overwrite_payload(self, request: pb.SetPayloadPoints) -> None:
        self._write(request, lambda: updates.overwrite_payload(request))

    def delete_payload(self, request: pb.DeletePayloadPoints) -> None:
        self._write(request, lambda: updates.delete_payload(request))

    def clear_payload(self, request: pb.ClearPayloadPoints) -> None:
        self._write(request, lambda: updates.clear_payload(request.points))

    def create_field_index(self, request: pb.CreateFieldIndexCollection) -> None:
        kind = schema.field_type(request)
        self._write(request, lambda: qe.UpdateOperation.create_field_index(request.field_name, kind))

    def delete_field_index(self, request: pb.DeleteFieldIndexCollection) -> None:
        self._write(request, lambda: qe.UpdateOperation.delete_field_index(request.field_name))

    def batch(self, request: pb.UpdateBatchPoints) -> None:
        points = sum(len(operation.upsert.points) for operation in request.operations)
        parts = [_part(operation, self._space) for operation in request.operations]
        self._write(request, *parts, points=points)

    # Reads.

    def retrieve(self, request: pb.GetPoints) -> list[qe.Record]:
        with engine_errors():
            self._strict.check(request)
            return self._shard.retrieve(
                [*all_from_proto(request.ids)],
                queries.payload_wanted(request, otherwise=True),
                queries.vectors_wanted(request),
            )

    def scroll(self, request: pb.ScrollPoints) -> "tuple[list[qe.Record], qe.PointId | None]":
        with engine_errors():
            self._strict.check(request)
            return self._shard.scroll(queries.scroll(request))

    def count(self, request: pb.CountPoints) -> int:
        with engine_errors():
            self._strict.check(request)
            return self._shard.count(queries.count(request))

    def facet(self, request: pb.FacetCounts) -> list[qe.FacetHit]:
        with engine_errors():
            self._strict.check(request)
            hits = self._shard.facet(queries.facet(request)).hits
        # The engine also names values that no point has any more.
        return [hit for hit in hits if hit.count]

    def query(self, request: pb.QueryPoints | pb.QueryBatchPoints) -> list[list[pb.ScoredPoint]]:
        """Answer one query or several, each with its points, best first."""
        each = request.query_points if isinstance(request, pb.QueryBatchPoints) else [request]
        self._is_busy()
        with engine_errors():
            self._strict.check(request)
            asked = [self._query(one) for one in each]
            answers = self._shard.query_batch(qe.QueryBatchRequest(asked))
        return [queries.hits(one, found) for one, found in zip(each, answers, strict=True)]

    def query_groups(self, request: pb.QueryPointGroups) -> list[tuple[GroupId, list[pb.ScoredPoint]]]:
        """Answer with the groups, and the points of each, best first."""
        by, (limit, size) = request.group_by, groups.limits(request)

        def rank(limit: int, among: Among) -> Sequence[qe.ScoredPoint]:
            query = self._query(groups.ranking(request, limit), groups.members(by, among))
            return self._shard.query(query)

        self._is_busy()
        with engine_errors():
            self._strict.check(request)
            found = groups.gathered(rank, by, limit, size)
            # One point may be in several groups.
            wanted = {point.id: point for points in found.values() for point in points}
            records = self._shard.retrieve(
                [*wanted],
                queries.payload_wanted(request, otherwise=False),
                queries.vectors_wanted(request),
            )
        whole = {record.id: queries.scored(wanted[record.id], record) for record in records}
        return [(group, [whole[point.id] for point in points]) for group, points in found.items()]

    # Upkeep.

    def settle(self) -> None:
        """Merge and quantize what has grown, and write to the files what the log alone holds."""
        with engine_errors():
            self._shard.optimize()
            self._shard.flush()
        self.changes = None

    def close(self) -> None:
        """Flush and let go of the files."""
        with engine_errors():
            try:
                self._shard.flush()
            finally:
                self._shard.close()

    def _write(self, request: Any, *reads: Callable[[], qe.UpdateOperation], points: int = 0) -> None:
        with engine_errors():
            self._strict.check(request)
            operations = [read() for read in reads]
            now_s = time.monotonic()
            self.changes = self.changes or Changes(now_s, now_s)
            self.changes.points += points
            self._is_busy()
            for operation in operations:
                self._shard.update(operation)

    def _is_busy(self) -> None:
        if self.changes is not None:
            self.changes.last_s = time.monotonic()

    def _query(self, request: pb.QueryPoints, among: qe.Filter | None = None) -> qe.QueryRequest:
        if request.prefetch:
            raise Unsupported("prefetch")
        if request.HasField("lookup_from"):
            raise Unsupported("lookup in another collection")
        examples = Examples(request.using, self._space, self._vector_of)
        query = scoring.read(request, examples)
        where = examples.left_out_of(queries.where(request))
        if among is not None:
            where = among if where is None else qe.Filter(must=[where, among])
        return queries.search(request, query, where)

    def _indexed(self) -> dict[str, str]:
        return schema.indexed(self._shard.info())

    def _vector_of(self, point: Id, name: str) -> Any:
        found = self._shard.retrieve([point], False, [name or DEFAULT])
        if not found:
            raise Missing(f"there is no point {point}")
        vector: Any = found[0].vector
        if isinstance(vector, dict):
            vector = vector.get(name)
        if not vector:
            raise Missing(f"the point {point} has no vector {name!r}")
        return self._space.checked(name, vector)


def _part(operation: pb.PointsUpdateOperation, space: VectorSpace) -> Callable[[], qe.UpdateOperation]:
    return lambda: updates.of_batch(operation, space)
