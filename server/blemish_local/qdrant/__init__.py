# SPDX-License-Identifier: Apache-2.0
"""The embedded Qdrant: the part of Qdrant's gRPC API that blemish needs, over Qdrant's own engine.

One process owns the files; any number of unmodified ``QdrantClient(prefer_grpc=True)`` talk to
it. A request passes services, then the translations (filters, queries, updates, schema), then
a collection of the store, which is one shard of ``qdrant_edge``. What is not served answers
UNIMPLEMENTED: sparse vectors, prefetch, fusion, geo conditions, lookup in another collection,
some settings of strict mode, sharding, snapshots.
"""
