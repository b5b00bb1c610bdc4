# SPDX-License-Identifier: Apache-2.0
"""Collections: their vectors and payload indexes, as requested and as described.

There is no HNSW graph, because building one blocks the whole process. Vectors are quantized to int8
instead, and rescored hits are the exact ones; see docs/benchmarks.md. Settings of graphs and of
quantization therefore have no effect. Strict mode is stored and described, but not enforced.
"""

import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported

_MAX_VECTOR_SIZE = 65536
"""Limit of a Qdrant server."""
_INDEXING_THRESHOLD_KB = 10_000
"""Size from which a segment is quantized."""
_SEGMENTS = 2
_MAX_SEGMENT_KB = 10_000
"""Size above which segments are not merged, so that later writes do not rewrite them."""
_VECTOR_FIELDS = {"size", "distance", "hnsw_config", "quantization_config", "on_disk"}

_DISTANCES = {
    pb.Distance.Cosine: qe.Distance.Cosine,
    pb.Distance.Dot: qe.Distance.Dot,
    pb.Distance.Euclid: qe.Distance.Euclid,
    pb.Distance.Manhattan: qe.Distance.Manhattan,
}
_FIELD_TYPES = {
    pb.FieldType.FieldTypeKeyword: qe.PayloadSchemaType.Keyword,
    pb.FieldType.FieldTypeInteger: qe.PayloadSchemaType.Integer,
    pb.FieldType.FieldTypeFloat: qe.PayloadSchemaType.Float,
    pb.FieldType.FieldTypeBool: qe.PayloadSchemaType.Bool,
    pb.FieldType.FieldTypeDatetime: qe.PayloadSchemaType.Datetime,
}


def vector_params(request: pb.CreateCollection) -> pb.VectorParams:
    """Return the settings of a collection's vectors.

    Raises:
        BadRequest: if there are none.
        Unsupported: for named vectors and multivectors.
    """
    match request.vectors_config.WhichOneof("config"):
        case "params":
            params = request.vectors_config.params
        case "params_map":
            raise Unsupported("named vectors")
        case _:
            raise BadRequest("the collection has no vectors; set their size and distance")
    if params.HasField("multivector_config"):
        raise Unsupported("multivectors")
    return params


def parse_collection(request: pb.CreateCollection) -> qe.EdgeConfig:
    """Return the engine's settings for a new collection.

    Raises:
        BadRequest: if its vectors are not valid.
        Unsupported: for other settings of vectors that would change results.
    """
    params = vector_params(request)
    for field, _ in params.ListFields():
        if field.name not in _VECTOR_FIELDS:
            raise Unsupported(f"the field {field.name} of VectorParams")
    if not 1 <= params.size <= _MAX_VECTOR_SIZE:
        raise BadRequest(f"the vector size is {params.size}; use 1 to {_MAX_VECTOR_SIZE}")
    if params.distance not in _DISTANCES:
        raise BadRequest("the distance is missing; use Cosine, Dot, Euclid or Manhattan")
    return qe.EdgeConfig(
        vectors=qe.EdgeVectorParams(
            params.size,
            _DISTANCES[params.distance],
            multivector_config=None,
            datatype=qe.VectorStorageDatatype.Float32,
        ),
        hnsw_config=qe.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
        quantization_config=qe.ScalarQuantizationConfig(
            qe.ScalarType.Int8, quantile=0.99, memory=qe.Memory.Pinned
        ),
        optimizers=qe.EdgeOptimizersConfig(
            indexing_threshold=_INDEXING_THRESHOLD_KB,
            default_segment_number=_SEGMENTS,
            max_segment_size=_MAX_SEGMENT_KB,
        ),
    )


def parse_field_type(request: pb.CreateFieldIndexCollection) -> qe.PayloadSchemaType:
    """Return the type of a payload index.

    Raises:
        BadRequest: if it is missing.
        Unsupported: for types that blemish does not use.
    """
    if not request.HasField("field_type"):
        raise BadRequest(f"the index on {request.field_name[:80]!r} has no type; use keyword, integer, ...")
    if request.field_type not in _FIELD_TYPES:
        raise Unsupported(f"payload indexes of the type {request.field_type}")
    return _FIELD_TYPES[request.field_type]


def collection_to_proto(created: pb.CreateCollection, info: "qe.ShardInfo") -> pb.CollectionInfo:
    """Describe a collection with its actual settings, which may differ from the requested ones."""
    return pb.CollectionInfo(
        status=pb.CollectionStatus.Green,
        optimizer_status=pb.OptimizerStatus(ok=True),
        segments_count=info.segments_count,
        points_count=info.points_count,
        indexed_vectors_count=info.indexed_vectors_count,
        payload_schema={
            key: pb.PayloadSchemaInfo(
                data_type=pb.PayloadSchemaType.Value(_type_name(field.data_type)),
                points=field.points,
            )
            for key, field in info.payload_schema.items()
        },
        config=pb.CollectionConfig(
            params=pb.CollectionParams(
                shard_number=1, on_disk_payload=True, vectors_config=created.vectors_config
            ),
            hnsw_config=pb.HnswConfigDiff(m=0, ef_construct=100, full_scan_threshold=10_000),
            optimizer_config=pb.OptimizersConfigDiff(
                deleted_threshold=0.2,
                vacuum_min_vector_number=1000,
                default_segment_number=_SEGMENTS,
                max_segment_size=_MAX_SEGMENT_KB,
                indexing_threshold=_INDEXING_THRESHOLD_KB,
                flush_interval_sec=5,
            ),
            wal_config=pb.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
            quantization_config=pb.QuantizationConfig(
                scalar=pb.ScalarQuantization(type=pb.QuantizationType.Int8, quantile=0.99, always_ram=True)
            ),
            strict_mode_config=created.strict_mode_config
            if created.HasField("strict_mode_config")
            else None,
            metadata=created.metadata,
        ),
    )


def _type_name(data_type: qe.PayloadSchemaType) -> str:
    # It is not a Python Enum, despite the stub: only its text contains the name.
    return str(data_type).rpartition(".")[2]
