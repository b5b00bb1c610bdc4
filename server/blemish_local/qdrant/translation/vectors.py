# SPDX-License-Identifier: Apache-2.0
"""Vectors, checked before the engine receives them.

The engine writes an operation to its log, then applies it point by point. A vector that does not fit leaves
the operation half done; one that makes the engine panic does so again at every start.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported

Values = Sequence[float] | np.ndarray[Any, np.dtype[np.float32]]
_ONLY_NAME = ""
"""The engine's name of a collection's unnamed vector."""


def parse_stored_vectors(vectors: pb.Vectors, size: int) -> dict[str, Any]:
    """Return the vector of one point by its name; empty if the point has none.

    Raises:
        BadRequest: if the vector does not have ``size`` finite values.
        Unsupported: for other kinds of vectors.
    """
    match vectors.WhichOneof("vectors_options"):
        case None:
            return {}
        case "vectors":
            raise Unsupported("named vectors")
    vector = vectors.vector
    kind = vector.WhichOneof("vector")
    if kind is None and not vector.HasField("indices") and not vector.HasField("vectors_count"):
        # The form before Qdrant 1.15, which some clients still send.
        return {_ONLY_NAME: checked(vector.data, size)}
    return {_ONLY_NAME: checked(_dense(kind, vector), size)}


def parse_query_vector(given: pb.VectorInput, size: int) -> Any:
    """Return the vector of a query; raises like ``parse_stored_vectors``."""
    return checked(_dense(given.WhichOneof("variant"), given), size)


def checked(values: Values, size: int) -> Any:
    """Return a buffer of float32 with shape (size,), which the engine accepts although its stub does not.

    Raises:
        BadRequest: if there are not ``size`` finite values.
    """
    # A buffer is much faster than a list of floats.
    vector = np.array(values, np.float32)
    if len(vector) != size:
        raise BadRequest(f"the vector has {len(vector)} values; the collection's vectors have {size}")
    if not np.isfinite(vector).all():
        raise BadRequest("the vector contains NaN or infinity; send finite numbers")
    return vector.data


def vector_to_proto(vector: Any) -> pb.VectorsOutput | None:
    """Convert a point's vector; None if it was not selected or the point has none."""
    if not vector:
        return None
    return pb.VectorsOutput(vector=pb.VectorOutput(dense=pb.DenseVector(data=vector)))


def _dense(kind: str | None, vector: pb.Vector | pb.VectorInput) -> Values:
    if kind == "dense":
        return vector.dense.data
    raise Unsupported(f"vectors of the kind {kind}" if kind else "sparse vectors and multivectors")
