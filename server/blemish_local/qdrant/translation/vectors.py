# SPDX-License-Identifier: Apache-2.0
"""Vectors and multivectors: which a collection holds, and each checked before the engine sees it.

The engine writes an operation to its log, then applies it point by point. One bad vector
leaves the operation half done; one that makes it panic makes it panic at every start after.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported

Values = Sequence[float] | Sequence[Sequence[float]] | np.ndarray[Any, np.dtype[np.float32]]
DEFAULT = ""
"""The name of a collection's only vector where none was given."""


@dataclass(frozen=True)
class VectorSpace:
    sizes: Mapping[str, int]
    """How many values the vector of each name has, or each row of a multivector."""
    multi: Collection[str] = ()
    """The names of those that are multivectors."""

    @classmethod
    def of(cls, config: pb.VectorsConfig) -> "VectorSpace":
        if config.WhichOneof("config") == "params":
            named: Mapping[str, pb.VectorParams] = {DEFAULT: config.params}
        else:
            named = config.params_map.map
        return cls(
            {name: params.size for name, params in named.items()},
            [name for name, params in named.items() if params.HasField("multivector_config")],
        )

    def of_point(self, vectors: pb.Vectors) -> dict[str, Any]:
        """Read the vectors of one point, by name; it may lack some, or all.

        Raises:
            BadRequest: if one is unknown, sparse, of the wrong size or not finite.
            Unsupported: for vectors to be computed by the server.
        """
        if vectors.WhichOneof("vectors_options") == "vectors":
            named = vectors.vectors.vectors
            return {name: self.checked(name, _stored(named[name])) for name in named}
        if vectors.WhichOneof("vectors_options") == "vector":
            return {DEFAULT: self.checked(DEFAULT, _stored(vectors.vector))}
        return {}

    def of_query(self, name: str, query: pb.VectorInput) -> Any:
        """Read the vector that those called ``name`` are compared with; raises as ``of_point``."""
        return self.checked(name, _given(query.WhichOneof("variant"), query))

    def is_multi(self, name: str) -> bool:
        return name in self.multi

    def checked(self, name: str, values: Values) -> Any:
        """Return a buffer of float32 [size], which the engine takes though its stub has it not.

        A multivector becomes a list of them, and one of a single row may come without its list.

        Raises:
            BadRequest: if there is no vector ``name`` here, or they are not one.
        """
        size = self.sizes.get(name)
        if size is None:
            known = ", ".join(map(repr, self.sizes))
            raise BadRequest(f"the collection has no vector named {name[:80]!r}, only {known}")
        try:
            # Through an array: some 25 times faster than a list of floats, which the engine also takes.
            vector = np.array(values, np.float32)
        except ValueError as error:
            raise BadRequest("the rows of the multivector have different sizes") from error
        if self.is_multi(name):
            vector = np.atleast_2d(vector)
        elif vector.ndim != 1:
            raise BadRequest("the vector is one list of numbers here: a multivector has several")
        if vector.shape[-1] != size or not vector.size:
            raise BadRequest(f"the vector has {vector.shape[-1]} values where the collection's have {size}")
        if not np.isfinite(vector).all():
            raise BadRequest("the vector holds NaN or infinity, which compares with nothing")
        # As buffers: more than twice as fast as arrays.
        return [row.data for row in vector] if self.is_multi(name) else vector.data


def to_proto(vector: Any) -> pb.VectorsOutput | None:
    """Answer with a point's vector or vectors; None where they were not asked for."""
    if vector is None:
        return None
    if isinstance(vector, dict):
        named = {name: _output(values) for name, values in vector.items()}
        return pb.VectorsOutput(vectors=pb.NamedVectorsOutput(vectors=named))
    return pb.VectorsOutput(vector=_output(vector))


def _output(values: Any) -> pb.VectorOutput:
    if values and isinstance(values[0], list):
        rows = [pb.DenseVector(data=row) for row in values]
        return pb.VectorOutput(multi_dense=pb.MultiDenseVector(vectors=rows))
    return pb.VectorOutput(dense=pb.DenseVector(data=values))


def _stored(vector: pb.Vector) -> Values:
    kind = vector.WhichOneof("vector")
    # The form before Qdrant 1.15, in which some clients still write.
    if kind is None and not vector.HasField("indices"):
        if not vector.HasField("vectors_count"):
            return vector.data
        if not vector.vectors_count or len(vector.data) % vector.vectors_count:
            raise BadRequest(f"{len(vector.data)} values are no {vector.vectors_count} rows")
        return np.array(vector.data, np.float32).reshape(vector.vectors_count, -1)
    return _given(kind, vector)


def _given(kind: str | None, vector: pb.Vector | pb.VectorInput) -> Values:
    if kind == "dense":
        return vector.dense.data
    if kind == "multi_dense":
        return [row.data for row in vector.multi_dense.vectors]
    if kind in ("document", "image", "object"):
        raise Unsupported("inference")
    raise BadRequest("the collection holds no sparse vectors: send a list of numbers")
