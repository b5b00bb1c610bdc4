# SPDX-License-Identifier: Apache-2.0
"""What a collection is: its vectors and payload indexes, as asked for and as described.

There is no HNSW graph. Building one holds the whole process up (128 s for 100,000 vectors of
1,280), where an int8 table takes 4 s and finds the same neighbours when they are rescored: so
each vector is stored so, and what a request says of graphs and quantization has no effect.
"""

import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant import strict
from blemish_local.qdrant.errors import BadRequest, Unsupported
from blemish_local.qdrant.storage import names

_MOST_VALUES = 65536
"""A real Qdrant's limit for the size of a vector."""
_INDEXING_THRESHOLD_KB = 10_000
"""Smaller segments are searched as they are."""
_SEGMENTS = 2
_LARGEST_SEGMENT_KB = 10_000
"""What is merged and quantized once is not rewritten with all that comes later; searches take as long."""

_DISTANCES = {
    pb.Distance.Cosine: qe.Distance.Cosine,
    pb.Distance.Dot: qe.Distance.Dot,
    pb.Distance.Euclid: qe.Distance.Euclid,
    pb.Distance.Manhattan: qe.Distance.Manhattan,
}
_DATATYPES = {
    pb.Datatype.Default: qe.VectorStorageDatatype.Float32,
    pb.Datatype.Float32: qe.VectorStorageDatatype.Float32,
    pb.Datatype.Float16: qe.VectorStorageDatatype.Float16,
    pb.Datatype.Uint8: qe.VectorStorageDatatype.Uint8,
}
_FIELDS = {
    pb.FieldType.FieldTypeKeyword: qe.PayloadSchemaType.Keyword,
    pb.FieldType.FieldTypeInteger: qe.PayloadSchemaType.Integer,
    pb.FieldType.FieldTypeFloat: qe.PayloadSchemaType.Float,
    pb.FieldType.FieldTypeBool: qe.PayloadSchemaType.Bool,
    pb.FieldType.FieldTypeDatetime: qe.PayloadSchemaType.Datetime,
    pb.FieldType.FieldTypeUuid: qe.PayloadSchemaType.Uuid,
    pb.FieldType.FieldTypeText: qe.PayloadSchemaType.Text,
}
_HINTS = {"is_tenant", "is_principal", "on_disk", "memory", "enable_hnsw", "lookup", "range"}
"""Settings of a payload index that change where it lies or how fast it is, never an answer."""


def shard_config(asked: pb.CreateCollection) -> qe.EdgeConfig:
    """Return the engine's settings for a new collection.

    Raises:
        BadRequest: if its vectors cannot be.
        Unsupported: for sparse vectors, custom sharding, and strict settings that are not enforced.
    """
    strict.served(asked.strict_mode_config)
    if asked.sparse_vectors_config.map:
        raise Unsupported("sparse vectors")
    if asked.sharding_method == pb.ShardingMethod.Custom:
        raise Unsupported("custom sharding")
    vectors: qe.EdgeVectorParams | dict[str, qe.EdgeVectorParams]
    match asked.vectors_config.WhichOneof("config"):
        case "params":
            vectors = _vector(asked.vectors_config.params)
        case "params_map":
            vectors = {
                names.checked(name, "a vector"): _vector(params)
                for name, params in asked.vectors_config.params_map.map.items()
            }
        case _:
            vectors = {}
    if not vectors:
        raise BadRequest("the collection would have no vectors: give their size and distance")
    return qe.EdgeConfig(
        vectors=vectors,
        hnsw_config=qe.HnswIndexConfig(m=0, ef_construct=100, full_scan_threshold=10_000),
        quantization_config=qe.ScalarQuantizationConfig(
            qe.ScalarType.Int8, quantile=0.99, memory=qe.Memory.Pinned
        ),
        optimizers=qe.EdgeOptimizersConfig(
            indexing_threshold=_INDEXING_THRESHOLD_KB,
            default_segment_number=_SEGMENTS,
            max_segment_size=_LARGEST_SEGMENT_KB,
        ),
    )


def changed(asked: pb.CreateCollection, change: pb.UpdateCollection) -> pb.CreateCollection:
    """Return what a collection would have been asked to be; settings not named stay.

    Of graphs, quantization, optimizers and replicas there is nothing to change here.

    Raises:
        Unsupported: for sparse vectors, and strict settings that are not enforced.
    """
    if change.sparse_vectors_config.map:
        raise Unsupported("sparse vectors")
    after = pb.CreateCollection.FromString(asked.SerializeToString())
    if change.HasField("strict_mode_config"):
        after.strict_mode_config.MergeFrom(strict.served(change.strict_mode_config))
    for key, value in change.metadata.items():
        after.metadata[key].CopyFrom(value)
    return after


def indexed(info: "qe.ShardInfo") -> dict[str, str]:
    """Return the kind of index that each indexed field has: "keyword", "integer", ..."""
    return {key: _last_part(field.data_type).lower() for key, field in info.payload_schema.items()}


def field_type(asked: pb.CreateFieldIndexCollection) -> qe.PayloadSchemaType:
    """Return the kind of the payload index that is asked for.

    Raises:
        BadRequest: if none is.
        Unsupported: for places, and for settings that change answers.
    """
    params = asked.field_index_params.WhichOneof("index_params")
    if params is not None:
        chosen = {part.name for part, _ in getattr(asked.field_index_params, params).ListFields()}
        if unknown := sorted(chosen - _HINTS):
            raise Unsupported(f"setting {', '.join(unknown)} of a payload index")
    if not asked.HasField("field_type"):
        raise BadRequest(f"the index on {asked.field_name[:80]!r} has no type: keyword, integer, ...")
    if asked.field_type not in _FIELDS:
        raise Unsupported(f"payload index of type {asked.field_type}")
    return _FIELDS[asked.field_type]


def description(asked: pb.CreateCollection, info: "qe.ShardInfo") -> pb.CollectionInfo:
    """Describe a collection as it is, which need not be as it was asked for."""
    return pb.CollectionInfo(
        status=pb.CollectionStatus.Green,
        optimizer_status=pb.OptimizerStatus(ok=True),
        segments_count=info.segments_count,
        points_count=info.points_count,
        indexed_vectors_count=info.indexed_vectors_count,
        payload_schema={
            key: pb.PayloadSchemaInfo(
                data_type=pb.PayloadSchemaType.Value(_last_part(field.data_type)),
                points=field.points,
            )
            for key, field in info.payload_schema.items()
        },
        config=pb.CollectionConfig(
            params=pb.CollectionParams(
                shard_number=1, on_disk_payload=True, vectors_config=asked.vectors_config
            ),
            hnsw_config=pb.HnswConfigDiff(m=0, ef_construct=100, full_scan_threshold=10_000),
            optimizer_config=pb.OptimizersConfigDiff(
                deleted_threshold=0.2,
                vacuum_min_vector_number=1000,
                default_segment_number=_SEGMENTS,
                max_segment_size=_LARGEST_SEGMENT_KB,
                indexing_threshold=_INDEXING_THRESHOLD_KB,
                flush_interval_sec=5,
            ),
            wal_config=pb.WalConfigDiff(wal_capacity_mb=32, wal_segments_ahead=0),
            quantization_config=pb.QuantizationConfig(
                scalar=pb.ScalarQuantization(type=pb.QuantizationType.Int8, quantile=0.99, always_ram=True)
            ),
            strict_mode_config=asked.strict_mode_config if asked.HasField("strict_mode_config") else None,
            metadata=asked.metadata,
        ),
    )


def _vector(params: pb.VectorParams) -> qe.EdgeVectorParams:
    if not 1 <= params.size <= _MOST_VALUES:
        raise BadRequest(f"a vector has 1 to {_MOST_VALUES} values, not {params.size}")
    if params.distance not in _DISTANCES:
        raise BadRequest("the distance is missing: Cosine, Dot, Euclid or Manhattan")
    if params.datatype not in _DATATYPES:
        raise Unsupported(f"vector datatype {params.datatype}")
    multi = None
    if params.HasField("multivector_config"):
        if params.multivector_config.comparator != pb.MultiVectorComparator.MaxSim:
            raise Unsupported(f"comparator {params.multivector_config.comparator} of multivectors")
        multi = qe.MultiVectorConfig(qe.MultiVectorComparator.MaxSim)
    return qe.EdgeVectorParams(
        params.size,
        _DISTANCES[params.distance],
        multivector_config=multi,
        datatype=_DATATYPES[params.datatype],
    )


def _last_part(data_type: qe.PayloadSchemaType) -> str:
    # Not an Enum of Python's, whatever the stub says: it has no name, only a spelling.
    return str(data_type).rpartition(".")[2]
