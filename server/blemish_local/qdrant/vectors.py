# SPDX-License-Identifier: Apache-2.0
"""Dense vectors: which ones a collection holds, and each checked before the engine sees it.

The engine writes an operation to its log, then applies it point by point. One bad vector
leaves the operation half done; one that makes it panic makes it panic at every start after.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported

DEFAULT = ""
"""The name of a collection's only vector where none was given."""


@dataclass(frozen=True)
class VectorSpace:
    sizes: Mapping[str, int]
    """How many values the vector of each name has."""

    @classmethod
    def of(cls, config: pb.VectorsConfig) -> "VectorSpace":
        if config.WhichOneof("config") == "params":
            return cls({DEFAULT: config.params.size})
        return cls({name: params.size for name, params in config.params_map.map.items()})

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
        return self.checked(name, _dense(query.WhichOneof("variant"), query))

    def checked(self, name: str, values: Sequence[float]) -> Any:
        """Return ``values`` as a buffer of float32, which the engine takes though its stub has it not.

        Raises:
            BadRequest: if there is no vector ``name`` here, or they are not one.
        """
        size = self.sizes.get(name)
        if size is None:
            known = ", ".join(map(repr, self.sizes))
            raise BadRequest(f"the collection has no vector named {name[:80]!r}, only {known}")
        # Through an array: some 25 times faster than a list of floats, which the engine also takes.
        vector = np.array(values, np.float32)
        if len(vector) != size:
            raise BadRequest(f"the vector has {len(vector)} values where the collection's have {size}")
        if not np.isfinite(vector).all():
            raise BadRequest("the vector holds NaN or infinity, which compares with nothing")
        return vector.data


def to_proto(vector: Any) -> pb.VectorsOutput | None:
    """Answer with a point's vector or vectors; None where they were not asked for."""
    if vector is None:
        return None
    if isinstance(vector, dict):
        named = {name: _output(values) for name, values in vector.items()}
        return pb.VectorsOutput(vectors=pb.NamedVectorsOutput(vectors=named))
    return pb.VectorsOutput(vector=_output(vector))


def _output(values: Sequence[float]) -> pb.VectorOutput:
    return pb.VectorOutput(dense=pb.DenseVector(data=values))


def _stored(vector: pb.Vector) -> Sequence[float]:
    kind = vector.WhichOneof("vector")
    # The form before Qdrant 1.15, in which some clients still write.
    if kind is None and not vector.HasField("indices"):
        return vector.data
    return _dense(kind, vector)


def _dense(kind: str | None, vector: pb.Vector | pb.VectorInput) -> Sequence[float]:
    if kind == "dense":
        return vector.dense.data
    if kind in ("document", "image", "object"):
        raise Unsupported("inference")
    raise BadRequest("the collection holds dense vectors only: send a list of numbers")
