# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 - the methods are named by the contract
"""Qdrant's Points service: write and read the points of a collection, by its name or alias."""

import itertools

from qdrant_client import grpc as pb

from blemish_local.qdrant.services.rpc import answered, refuse_sharding
from blemish_local.qdrant.storage.store import Store
from blemish_local.qdrant.translation import groups, ids
from blemish_local.qdrant.translation import reads as queries


class PointsService(pb.PointsServicer):
    """A write is in the engine's log when it is answered, whether or not the caller waits."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._written = itertools.count(1)

    @answered
    def Upsert(self, request: pb.UpsertPoints) -> pb.PointsOperationResponse:
        self._store.find(request.collection_name).upsert(request)
        return self._done()

    @answered
    def Delete(self, request: pb.DeletePoints) -> pb.PointsOperationResponse:
        self._store.find(request.collection_name).delete(request)
        return self._done()

    @answered
    def UpdateVectors(self, request: pb.UpdatePointVectors) -> pb.PointsOperationResponse:
        self._store.find(request.collection_name).update_vectors(request)
        return self._done()

    @answered
    def SetPayload(self, request: pb.SetPayloadPoints) -> pb.PointsOperationResponse:
        self._store.find(request.collection_name).set_payload(request)
        return self._done()

    @answered
    def OverwritePayload(self, request: pb.SetPayloadPoints) -> pb.PointsOperationResponse:
        self._store.find(request.collection_name).overwrite_payload(request)
        return self._done()

    @answered
    def DeletePayload(self, request: pb.DeletePayloadPoints) -> pb.PointsOperationResponse:
        self._store.find(request.collection_name).delete_payload(request)
        return self._done()

    @answered
    def ClearPayload(self, request: pb.ClearPayloadPoints) -> pb.PointsOperationResponse:
        self._store.find(request.collection_name).clear_payload(request)
        return self._done()

    @answered
    def UpdateBatch(self, request: pb.UpdateBatchPoints) -> pb.UpdateBatchResponse:
        for operation in request.operations:
            if kind := operation.WhichOneof("operation"):
                refuse_sharding(getattr(operation, kind))
        self._store.find(request.collection_name).batch(request)
        return pb.UpdateBatchResponse(result=[self._result() for _ in request.operations])

    @answered
    def CreateFieldIndex(self, request: pb.CreateFieldIndexCollection) -> pb.PointsOperationResponse:
        self._store.find(request.collection_name).create_field_index(request)
        return self._done()

    @answered
    def DeleteFieldIndex(self, request: pb.DeleteFieldIndexCollection) -> pb.PointsOperationResponse:
        self._store.find(request.collection_name).delete_field_index(request)
        return self._done()

    @answered
    def Get(self, request: pb.GetPoints) -> pb.GetResponse:
        found = self._store.find(request.collection_name).retrieve(request)
        return pb.GetResponse(result=map(queries.retrieved, found))

    @answered
    def Scroll(self, request: pb.ScrollPoints) -> pb.ScrollResponse:
        found, following = self._store.find(request.collection_name).scroll(request)
        return pb.ScrollResponse(
            result=map(queries.retrieved, found),
            next_page_offset=None if following is None else ids.to_proto(following),
        )

    @answered
    def Count(self, request: pb.CountPoints) -> pb.CountResponse:
        count = self._store.find(request.collection_name).count(request)
        return pb.CountResponse(result=pb.CountResult(count=count))

    @answered
    def Facet(self, request: pb.FacetCounts) -> pb.FacetResponse:
        hits = self._store.find(request.collection_name).facet(request)
        return pb.FacetResponse(hits=map(queries.facet_hit, hits))

    @answered
    def Query(self, request: pb.QueryPoints) -> pb.QueryResponse:
        (found,) = self._store.find(request.collection_name).query(request)
        return pb.QueryResponse(result=found)

    @answered
    def QueryBatch(self, request: pb.QueryBatchPoints) -> pb.QueryBatchResponse:
        for query in request.query_points:
            refuse_sharding(query)
        answers = self._store.find(request.collection_name).query(request)
        return pb.QueryBatchResponse(result=[pb.BatchResult(result=found) for found in answers])

    @answered
    def QueryGroups(self, request: pb.QueryPointGroups) -> pb.QueryGroupsResponse:
        found = self._store.find(request.collection_name).query_groups(request)
        each = [pb.PointGroup(id=groups.id_to_proto(group), hits=hits) for group, hits in found]
        return pb.QueryGroupsResponse(result=pb.GroupsResult(groups=each))

    def _done(self) -> pb.PointsOperationResponse:
        return pb.PointsOperationResponse(result=self._result())

    def _result(self) -> pb.UpdateResult:
        return pb.UpdateResult(operation_id=next(self._written), status=pb.UpdateStatus.Completed)
