# SPDX-License-Identifier: Apache-2.0
"""Point ids: unsigned integers of 64 bits, or UUIDs."""

from collections.abc import Iterable
from uuid import UUID

from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest

Id = int | UUID


def parse_id(point: pb.PointId) -> Id:
    """Parse an id.

    Raises:
        BadRequest: if it is empty or not a UUID.
    """
    if point.WhichOneof("point_id_options") == "num":
        return point.num
    try:
        return UUID(point.uuid)
    except ValueError as error:
        raise BadRequest(
            f"{point.uuid[:80]!r} is not a point id; use an unsigned integer or a UUID"
        ) from error


def parse_ids(points: Iterable[pb.PointId]) -> list[Id]:
    """Parse several ids; raises like ``parse_id``."""
    return [parse_id(point) for point in points]


def id_to_proto(point: object) -> pb.PointId:
    """Convert an id that the engine returned."""
    return pb.PointId(num=point) if isinstance(point, int) else pb.PointId(uuid=str(point))
