# SPDX-License-Identifier: Apache-2.0
"""One collection: a shard of the engine, and what was asked for when it was created.

Every call into the engine holds Python's global lock to its end, so threads would gain nothing:
the methods run where they are called, one at a time.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant import queries, schema, updates
from blemish_local.qdrant.engine import engine_errors
from blemish_local.qdrant.errors import BadRequest, Missing, Unsupported
from blemish_local.qdrant.ids import Id, all_from_proto, from_proto
from blemish_local.qdrant.vectors import DEFAULT, VectorSpace


class Collection:
    """All methods may raise Refusal, before anything was changed, or EngineFailed."""

    def __init__(self, shard: qe.EdgeShard, asked: pb.CreateCollection) -> None:
        self._shard = shard
        self._asked = asked
        self._space = VectorSpace.of(asked.vectors_config)
        self.changed = False
        """Whether there is something to flush."""

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

    # Writes. Each is read whole, so refused whole, before the first point is written; only
    # a point that is not there stops the engine half-way, as it does a real Qdrant.

    def upsert(self, request: pb.UpsertPoints) -> None:
        self._write(lambda: updates.upsert(request, self._space))

    def update_vectors(self, request: pb.UpdatePointVectors) -> None:
        self._write(lambda: updates.update_vectors(request, self._space))

    def delete(self, request: pb.DeletePoints) -> None:
        self._write(lambda: updates.delete(request.points))

    def set_payload(self, request: pb.SetPayloadPoints) -> None:
        self._write(lambda: updates.set_payload(request))

    def overwrite_payload(self, request: pb.SetPayloadPoints) -> None:
        self._write(lambda: updates.overwrite_payload(request))

    def delete_payload(self, request: pb.DeletePayloadPoints) -> None:
        self._write(lambda: updates.delete_payload(request))

    def clear_payload(self, request: pb.ClearPayloadPoints) -> None:
        self._write(lambda: updates.clear_payload(request.points))

    def create_field_index(self, request: pb.CreateFieldIndexCollection) -> None:
        kind = schema.field_type(request)
        self._write(lambda: qe.UpdateOperation.create_field_index(request.field_name, kind))

    def delete_field_index(self, request: pb.DeleteFieldIndexCollection) -> None:
        self._write(lambda: qe.UpdateOperation.delete_field_index(request.field_name))

    def batch(self, request: pb.UpdateBatchPoints) -> None:
        self._write(*(_part(operation, self._space) for operation in request.operations))

    # Reads.

    def retrieve(self, request: pb.GetPoints) -> list[qe.Record]:
        with engine_errors():
            return self._shard.retrieve(
                [*all_from_proto(request.ids)],
                queries.payload_wanted(request, otherwise=True),
                queries.vectors_wanted(request),
            )

    def scroll(self, request: pb.ScrollPoints) -> "tuple[list[qe.Record], qe.PointId | None]":
        with engine_errors():
            return self._shard.scroll(queries.scroll(request))

    def count(self, request: pb.CountPoints) -> int:
        with engine_errors():
            return self._shard.count(queries.count(request))

    def facet(self, request: pb.FacetCounts) -> list[qe.FacetHit]:
        with engine_errors():
            hits = self._shard.facet(queries.facet(request)).hits
        # The engine also names values that no point has any more.
        return [hit for hit in hits if hit.count]

    def query(self, requests: Sequence[pb.QueryPoints]) -> list[list[qe.ScoredPoint]]:
        """Answer several queries, each with its points, best first."""
        with engine_errors():
            asked = [self._query(request) for request in requests]
            return self._shard.query_batch(qe.QueryBatchRequest(asked))

    # Upkeep.

    def settle(self) -> None:
        """Merge and quantize what has grown, and write to the files what the log alone holds."""
        with engine_errors():
            self._shard.optimize()
            self._shard.flush()
        self.changed = False

    def close(self) -> None:
        """Flush and let go of the files."""
        with engine_errors():
            try:
                self._shard.flush()
            finally:
                self._shard.close()

    def _write(self, *reads: Callable[[], qe.UpdateOperation]) -> None:
        with engine_errors():
            operations = [read() for read in reads]
            self.changed = True
            for operation in operations:
                self._shard.update(operation)

    def _query(self, request: pb.QueryPoints) -> qe.QueryRequest:
        if request.prefetch:
            raise Unsupported("prefetch")
        if request.HasField("lookup_from"):
            raise Unsupported("lookup in another collection")
        where = queries.where(request)
        if not request.HasField("query"):
            return queries.search(request, None, where)
        name = request.using
        match request.query.WhichOneof("variant"):
            case "nearest" if request.query.nearest.WhichOneof("variant") == "id":
                point = from_proto(request.query.nearest.id)
                nearest = qe.Query.Nearest(self._vector_of(point, name), name or None)
                others = qe.Filter(
                    must=None if where is None else [where], must_not=[qe.HasIdCondition({point})]
                )
                return queries.search(request, nearest, others)
            case "nearest":
                vector = self._space.of_query(name, request.query.nearest)
                return queries.search(request, qe.Query.Nearest(vector, name or None), where)
            case "order_by":
                return queries.search(request, queries.order(request.query.order_by), where)
            case None:
                raise BadRequest("the query is empty: give a vector or a point's id, or leave it out")
            case kind:
                raise Unsupported(f"{kind} query")

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
