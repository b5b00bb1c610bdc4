# SPDX-License-Identifier: Apache-2.0
"""The fields of requests that the embedded Qdrant serves.

A field that would change the result must not be ignored: a request that sets one outside this table is
rejected. Settings that only tune a server, such as those of graphs, are accepted without effect.
"""

from google.protobuf.message import Message
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import Unsupported

_COMMON = {"collection_name", "timeout", "wait", "ordering", "read_consistency"}
_SELECTION = {"with_payload", "with_vectors"}
_QUERY = {"query", "filter", "params", "limit", *_SELECTION}

SERVED: dict[type[Message], set[str]] = {
    pb.CreateCollection: {
        "hnsw_config",
        "metadata",
        "on_disk_payload",
        "optimizers_config",
        "quantization_config",
        "replication_factor",
        "shard_number",
        "strict_mode_config",
        "vectors_config",
        "wal_config",
        "write_consistency_factor",
    },
    pb.CreateFieldIndexCollection: {"field_name", "field_type"},
    pb.UpsertPoints: {"points"},
    pb.DeletePoints: {"points"},
    pb.SetPayloadPoints: {"payload", "points_selector"},
    pb.DeletePayloadPoints: {"keys", "points_selector"},
    pb.GetPoints: {"ids", *_SELECTION},
    pb.ScrollPoints: {"filter", "limit", "offset", "order_by", *_SELECTION},
    pb.CountPoints: {"exact", "filter"},
    pb.FacetCounts: {"exact", "filter", "key", "limit"},
    pb.QueryPoints: {"offset", *_QUERY},
    pb.QueryPointGroups: {"group_by", "group_size", *_QUERY},
}


def check_fields(request: Message) -> None:
    """Check that a request sets served fields only; requests outside the table have no others.

    Raises:
        Unsupported: naming the first other field.
    """
    served = SERVED.get(type(request))
    if served is None:
        return
    for field, _ in request.ListFields():
        if field.name not in served and field.name not in _COMMON:
            raise Unsupported(f"the field {field.name} of {request.DESCRIPTOR.name}")
