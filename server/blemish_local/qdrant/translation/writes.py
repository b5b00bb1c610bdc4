# SPDX-License-Identifier: Apache-2.0
"""Writes: requests parsed into the engine's operations, and checked before any is applied."""

import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest
from blemish_local.qdrant.translation import filters, ids, payloads, vectors


def parse_upsert(request: pb.UpsertPoints, size: int) -> qe.UpdateOperation:
    """Parse points whose vectors have ``size`` values."""
    points = [
        qe.Point(
            ids.parse_id(point.id),
            vectors.parse_stored_vectors(point.vectors, size),
            payloads.parse_payload(point.payload),
        )
        for point in request.points
    ]
    return qe.UpdateOperation.upsert_points(points, None, qe.UpdateMode.Upsert)


def parse_delete(request: pb.DeletePoints) -> qe.UpdateOperation:
    selected = _selected(request.points)
    if isinstance(selected, qe.Filter):
        return qe.UpdateOperation.delete_points_by_filter(selected)
    return qe.UpdateOperation.delete_points(selected)


def parse_set_payload(request: pb.SetPayloadPoints) -> qe.UpdateOperation:
    selected, payload = _selected(request.points_selector), payloads.parse_payload(request.payload)
    if isinstance(selected, qe.Filter):
        return qe.UpdateOperation.set_payload_by_filter(selected, payload, None)
    return qe.UpdateOperation.set_payload(selected, payload, None)


def parse_delete_payload(request: pb.DeletePayloadPoints) -> qe.UpdateOperation:
    selected, keys = _selected(request.points_selector), list(request.keys)
    if isinstance(selected, qe.Filter):
        return qe.UpdateOperation.delete_payload_by_filter(selected, keys)
    return qe.UpdateOperation.delete_payload(selected, keys)


def _selected(selector: pb.PointsSelector) -> "list[qe.PointId] | qe.Filter":
    match selector.WhichOneof("points_selector_one_of"):
        case "points":
            return [*ids.parse_ids(selector.points.ids)]
        case "filter":
            return filters.parse_filter(selector.filter)
    raise BadRequest("the request does not select points; give their ids or a filter")
