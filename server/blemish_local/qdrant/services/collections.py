# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802 - the methods are named by the contract
"""Qdrant's Collections service: create, list, describe and drop collections and aliases."""

from collections.abc import Collection

from qdrant_client import grpc as pb

from blemish_local.qdrant.services.rpc import rpc, with_unsupported_methods
from blemish_local.qdrant.storage.store import CollectionStore


@with_unsupported_methods
class CollectionsService(pb.CollectionsServicer):
    """The calls about whole collections."""

    def __init__(self, store: CollectionStore) -> None:
        self._store = store

    @rpc
    def Create(self, request: pb.CreateCollection) -> pb.CollectionOperationResponse:
        self._store.create(request)
        return pb.CollectionOperationResponse(result=True)

    @rpc
    def Delete(self, request: pb.DeleteCollection) -> pb.CollectionOperationResponse:
        return pb.CollectionOperationResponse(result=self._store.drop(request.collection_name))

    @rpc
    def List(self, request: pb.ListCollectionsRequest) -> pb.ListCollectionsResponse:
        return pb.ListCollectionsResponse(
            collections=[pb.CollectionDescription(name=name) for name in self._store.names]
        )

    @rpc
    def CollectionExists(self, request: pb.CollectionExistsRequest) -> pb.CollectionExistsResponse:
        exists = request.collection_name in self._store
        return pb.CollectionExistsResponse(result=pb.CollectionExists(exists=exists))

    @rpc
    def Get(self, request: pb.GetCollectionInfoRequest) -> pb.GetCollectionInfoResponse:
        return pb.GetCollectionInfoResponse(result=self._store.find(request.collection_name).describe())

    @rpc
    def UpdateAliases(self, request: pb.ChangeAliases) -> pb.CollectionOperationResponse:
        self._store.change_aliases(request.actions)
        return pb.CollectionOperationResponse(result=True)

    @rpc
    def ListAliases(self, request: pb.ListAliasesRequest) -> pb.ListAliasesResponse:
        return self._aliases_of(self._store.names)

    @rpc
    def ListCollectionAliases(self, request: pb.ListCollectionAliasesRequest) -> pb.ListAliasesResponse:
        return self._aliases_of([request.collection_name])

    def _aliases_of(self, collections: Collection[str]) -> pb.ListAliasesResponse:
        return pb.ListAliasesResponse(
            aliases=[
                pb.AliasDescription(alias_name=alias, collection_name=name)
                for alias, name in self._store.aliases.items()
                if name in collections
            ]
        )
