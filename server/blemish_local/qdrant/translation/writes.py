# SPDX-License-Identifier: Apache-2.0
"""Writes: from Qdrant's requests to the engine's operations, checked whole before any is applied.

The parts of a batch carry the fields of the single requests, so one function reads either.
"""

import qdrant_edge as qe
from qdrant_client import grpc as pb

from blemish_local.qdrant.errors import BadRequest, Unsupported
from blemish_local.qdrant.translation import filters, ids, payloads
from blemish_local.qdrant.translation.vectors import VectorSpace

_MODES = {
    pb.UpdateMode.Upsert: qe.UpdateMode.Upsert,
    pb.UpdateMode.InsertOnly: qe.UpdateMode.InsertOnly,
    pb.UpdateMode.UpdateOnly: qe.UpdateMode.UpdateOnly,
}


def upsert(
    request: pb.UpsertPoints | pb.PointsUpdateOperation.PointStructList, space: VectorSpace
) -> qe.UpdateOperation:
    if request.update_mode not in _MODES:
        raise BadRequest(f"{request.update_mode} is no update mode")
    points = [
        qe.Point(
            ids.from_proto(point.id),
            space.of_point(point.vectors),
            payloads.from_proto(point.payload),
        )
        for point in request.points
    ]
    return qe.UpdateOperation.upsert_points(points, _condition(request), _MODES[request.update_mode])


def update_vectors(
    request: pb.UpdatePointVectors | pb.PointsUpdateOperation.UpdateVectors, space: VectorSpace
) -> qe.UpdateOperation:
    points = [
        qe.PointVectors(ids.from_proto(point.id), space.of_point(point.vectors)) for point in request.points
    ]
    return qe.UpdateOperation.update_vectors(points, _condition(request))


def delete(which: pb.PointsSelector) -> qe.UpdateOperation:
    chosen = _chosen(which)
    if isinstance(chosen, qe.Filter):
        return qe.UpdateOperation.delete_points_by_filter(chosen)
    return qe.UpdateOperation.delete_points(chosen)


def set_payload(
    request: pb.SetPayloadPoints | pb.PointsUpdateOperation.SetPayload,
) -> qe.UpdateOperation:
    chosen, payload = _chosen(request.points_selector), payloads.from_proto(request.payload)
    key = request.key if request.HasField("key") else None
    if isinstance(chosen, qe.Filter):
        return qe.UpdateOperation.set_payload_by_filter(chosen, payload, key)
    return qe.UpdateOperation.set_payload(chosen, payload, key)


def overwrite_payload(
    request: pb.SetPayloadPoints | pb.PointsUpdateOperation.OverwritePayload,
) -> qe.UpdateOperation:
    chosen, payload = _chosen(request.points_selector), payloads.from_proto(request.payload)
    key = request.key if request.HasField("key") else None
    if isinstance(chosen, qe.Filter):
        return qe.UpdateOperation.overwrite_payload_by_filter(chosen, payload, key)
    return qe.UpdateOperation.overwrite_payload(chosen, payload, key)


def delete_payload(
    request: pb.DeletePayloadPoints | pb.PointsUpdateOperation.DeletePayload,
) -> qe.UpdateOperation:
    chosen, keys = _chosen(request.points_selector), list(request.keys)
    if isinstance(chosen, qe.Filter):
        return qe.UpdateOperation.delete_payload_by_filter(chosen, keys)
    return qe.UpdateOperation.delete_payload(chosen, keys)


def clear_payload(which: pb.PointsSelector) -> qe.UpdateOperation:
    chosen = _chosen(which)
    if isinstance(chosen, qe.Filter):
        return qe.UpdateOperation.clear_payload_by_filter(chosen)
    return qe.UpdateOperation.clear_payload(chosen)


def of_batch(operation: pb.PointsUpdateOperation, space: VectorSpace) -> qe.UpdateOperation:
    """Read one part of a batch of writes."""
    match operation.WhichOneof("operation"):
        case "upsert":
            return upsert(operation.upsert, space)
        case "update_vectors":
            return update_vectors(operation.update_vectors, space)
        case "delete_points":
            return delete(operation.delete_points.points)
        case "delete_deprecated":
            return delete(operation.delete_deprecated)
        case "set_payload":
            return set_payload(operation.set_payload)
        case "overwrite_payload":
            return overwrite_payload(operation.overwrite_payload)
        case "delete_payload":
            return delete_payload(operation.delete_payload)
        case "clear_payload":
            return clear_payload(operation.clear_payload.points)
        case "clear_payload_deprecated":
            return clear_payload(operation.clear_payload_deprecated)
        case None:
            raise BadRequest("an operation of the batch is empty: leave it out")
        case kind:
            raise Unsupported(f"{kind} operation")


def _condition(
    request: pb.UpsertPoints
    | pb.UpdatePointVectors
    | pb.PointsUpdateOperation.PointStructList
    | pb.PointsUpdateOperation.UpdateVectors,
) -> qe.Filter | None:
    """Read which of the points that are there already may be written."""
    return filters.from_proto(request.update_filter) if request.HasField("update_filter") else None


def _chosen(which: pb.PointsSelector) -> "list[qe.PointId] | qe.Filter":
    match which.WhichOneof("points_selector_one_of"):
        case "points":
            return [*ids.all_from_proto(which.points.ids)]
        case "filter":
            return filters.from_proto(which.filter)
    raise BadRequest("the request does not say which points: name their ids or a filter")
