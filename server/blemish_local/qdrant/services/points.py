# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 - the methods are named by the contract
"""Qdrant's Points service: write and read the points of a collection, by its name or alias."""

import itertools

from qdrant_client import grpc as pb

from blemish_local.qdrant.services.rpc import rpc, with_unsupported_methods
from blemish_local.qdrant.storage.store import DELETE_BYTES, CollectionStore
from blemish_local.qdrant.translation import groups, ids, reads


@with_unsupported_methods
class PointsService(pb.PointsServicer):
    """The calls about points.

    The response to a write is sent after the engine logged it, whether or not the client waits.
    """

    def __init__(self, store: CollectionStore) -> None:
        self._store = store
        self._operation_ids = itertools.count(1)

    @rpc
    def Upsert(self, request: pb.UpsertPoints) -> pb.PointsOperationResponse:
        self._store.find_to_write(request.collection_name).upsert(request)
        return self._completed()

    @rpc
    def Delete(self, request: pb.DeletePoints) -> pb.PointsOperationResponse:
        self._store.find_to_write(request.collection_name, DELETE_BYTES).delete(request)
        return self._completed()

    @rpc
    def SetPayload(self, request: pb.SetPayloadPoints) -> pb.PointsOperationResponse:
        self._store.find_to_write(request.collection_name).set_payload(request)
        return self._completed()

    @rpc
    def DeletePayload(self, request: pb.DeletePayloadPoints) -> pb.PointsOperationResponse:
        self._store.find_to_write(request.collection_name, DELETE_BYTES).delete_payload(request)
        return self._completed()

    @rpc
    def CreateFieldIndex(self, request: pb.CreateFieldIndexCollection) -> pb.PointsOperationResponse:
        self._store.find_to_write(request.collection_name).create_field_index(request)
        return self._completed()

    @rpc
    def Get(self, request: pb.GetPoints) -> pb.GetResponse:
        found = self._store.find(request.collection_name).retrieve(request)
        return pb.GetResponse(result=map(reads.record_to_proto, found))

    @rpc
    def Scroll(self, request: pb.ScrollPoints) -> pb.ScrollResponse:
        found, next_id = self._store.find(request.collection_name).scroll(request)
        return pb.ScrollResponse(
            result=map(reads.record_to_proto, found),
            next_page_offset=None if next_id is None else ids.id_to_proto(next_id),
        )

    @rpc
    def Count(self, request: pb.CountPoints) -> pb.CountResponse:
        count = self._store.find(request.collection_name).count(request)
        return pb.CountResponse(result=pb.CountResult(count=count))

    @rpc
    def Facet(self, request: pb.FacetCounts) -> pb.FacetResponse:
        hits = self._store.find(request.collection_name).facet(request)
        return pb.FacetResponse(hits=map(reads.facet_hit_to_proto, hits))

    @rpc
    def Query(self, request: pb.QueryPoints) -> pb.QueryResponse:
        return pb.QueryResponse(result=self._store.find(request.collection_name).query(request))

    @rpc
    def QueryGroups(self, request: pb.QueryPointGroups) -> pb.QueryGroupsResponse:
        found = self._store.find(request.collection_name).query_groups(request)
        each = [pb.PointGroup(id=groups.group_id_to_proto(group), hits=hits) for group, hits in found]
        return pb.QueryGroupsResponse(result=pb.GroupsResult(groups=each))

    def _completed(self) -> pb.PointsOperationResponse:
        number = next(self._operation_ids)
        return pb.PointsOperationResponse(
            result=pb.UpdateResult(operation_id=number, status=pb.UpdateStatus.Completed)
        )
