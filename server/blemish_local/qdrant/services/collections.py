# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 - the methods are named by the contract
"""Qdrant's Collections service: make, list, describe and drop collections and aliases."""

from qdrant_client import grpc as pb

from blemish_local.qdrant.services.rpc import answered
from blemish_local.qdrant.storage.store import Store


class CollectionsService(pb.CollectionsServicer):
    def __init__(self, store: Store) -> None:
        self._store = store

    @answered
    def Create(self, request: pb.CreateCollection) -> pb.CollectionOperationResponse:
        self._store.create(request)
        return pb.CollectionOperationResponse(result=True)

    @answered
    def Update(self, request: pb.UpdateCollection) -> pb.CollectionOperationResponse:
        self._store.update(request)
        return pb.CollectionOperationResponse(result=True)

    @answered
    def Delete(self, request: pb.DeleteCollection) -> pb.CollectionOperationResponse:
        return pb.CollectionOperationResponse(result=self._store.drop(request.collection_name))

    @answered
    def List(self, request: pb.ListCollectionsRequest) -> pb.ListCollectionsResponse:
        return pb.ListCollectionsResponse(
            collections=[pb.CollectionDescription(name=name) for name in self._store.names]
        )

    @answered
    def CollectionExists(self, request: pb.CollectionExistsRequest) -> pb.CollectionExistsResponse:
        exists = request.collection_name in self._store
        return pb.CollectionExistsResponse(result=pb.CollectionExists(exists=exists))

    @answered
    def Get(self, request: pb.GetCollectionInfoRequest) -> pb.GetCollectionInfoResponse:
        return pb.GetCollectionInfoResponse(result=self._store.find(request.collection_name).describe())

    @answered
    def UpdateAliases(self, request: pb.ChangeAliases) -> pb.CollectionOperationResponse:
        self._store.change_aliases(request.actions)
        return pb.CollectionOperationResponse(result=True)

    @answered
    def ListAliases(self, request: pb.ListAliasesRequest) -> pb.ListAliasesResponse:
        return self._aliases(self._store.names)

    @answered
    def ListCollectionAliases(self, request: pb.ListCollectionAliasesRequest) -> pb.ListAliasesResponse:
        return self._aliases([request.collection_name])

    def _aliases(self, collections: list[str]) -> pb.ListAliasesResponse:
        return pb.ListAliasesResponse(
            aliases=[
                pb.AliasDescription(alias_name=alias, collection_name=name)
                for alias, name in self._store.aliases.items()
                if name in collections
            ]
        )
