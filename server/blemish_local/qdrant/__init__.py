# SPDX-License-Identifier: Apache-2.0
"""The embedded Qdrant: the part of Qdrant's gRPC API that blemish calls, over Qdrant's own engine.

One process owns the files and serves any number of ``QdrantClient(prefer_grpc=True)``. A request passes
three packages:

* ``services``: one method per RPC. Calls and fields that are not served are answered with UNIMPLEMENTED.
* ``translation``: requests parsed into the engine's types, and results converted back.
* ``storage``: collections and aliases on disk; a collection is one shard of ``qdrant_edge``.
"""
