# SPDX-License-Identifier: Apache-2.0
"""Point ids: an unsigned integer of 64 bits, or a UUID."""

from collections.abc import Iterable
from uuid import UUID

from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest

Id = int | UUID


def from_proto(point: pb.PointId) -> Id:
    """Read an id.

    Raises:
        BadRequest: if it is empty or not a UUID.
    """
    if point.WhichOneof("point_id_options") == "num":
        return point.num
    try:
        return UUID(point.uuid)
    except ValueError as error:
        raise BadRequest(
            f"{point.uuid[:80]!r} is not a point id: use an unsigned integer or a UUID"
        ) from error


def all_from_proto(points: Iterable[pb.PointId]) -> list[Id]:
    """Read several ids; see ``from_proto``."""
    return [from_proto(point) for point in points]


def to_proto(point: object) -> pb.PointId:
    return pb.PointId(num=point) if isinstance(point, int) else pb.PointId(uuid=str(point))
