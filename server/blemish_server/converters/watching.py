# SPDX-License-Identifier: Apache-2.0
"""Messages of WatchInspections."""

from collections.abc import Sequence
from dataclasses import dataclass

from blemish.v1 import image_pb2
from blemish.v1 import inspection_pb2 as pb
from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.names import ModelRef
from blemish_server.converters.inspection import defect_class_to_proto
from blemish_server.converters.regions import regions_to_proto
from blemish_server.converters.values import (
    check_count,
    parse_duration,
    timestamp_to_proto,
    verdict_to_proto,
)
from blemish_server.metrics.activity import ActiveCamera
from blemish_server.scoring.inspection_event import InspectionEvent
from blemish_server.scoring.inspection_feed import ThumbnailRequest, WatchFilter
from blemish_server.scoring.thumbnail import InspectionThumbnail, ThumbnailStyle

_MAX_VALUES = 256
_VERDICTS = {image_pb2.VERDICT_NORMAL: False, image_pb2.VERDICT_ANOMALOUS: True}
_STATE_INTERVAL_S = 2.0
_MIN_STATE_INTERVAL_S, _MAX_STATE_INTERVAL_S = 1.0, 60.0
_SIDE_PX = 320
_MIN_SIDE_PX, _MAX_SIDE_PX = 16, 1024
_THUMBNAILS_PER_SECOND = 1.0
_MAX_THUMBNAILS_PER_SECOND = 10.0


@dataclass(frozen=True)
class WatchOptions:
    """The options of a watcher."""

    filter: WatchFilter
    thumbnails: ThumbnailRequest | None
    state_interval_s: float


def parse_watch(request: pb.WatchInspectionsRequest) -> WatchOptions:
    """Return the options of a watcher.

    Raises:
        InvalidRequest: if one is malformed or out of range.
    """
    check_count(request.cameras, _MAX_VALUES, "cameras")
    check_count(request.models, _MAX_VALUES, "models")
    check_count(request.verdicts, _MAX_VALUES, "verdicts")
    watch_filter = WatchFilter(
        frozenset(request.cameras),
        frozenset(map(_parse_model, request.models)),
        _parse_verdicts(request.verdicts),
    )
    thumbnails = _parse_thumbnails(request.thumbnails) if request.HasField("thumbnails") else None
    return WatchOptions(watch_filter, thumbnails, _parse_state_interval(request))


def _parse_model(name: str) -> ModelRef:
    ref = ModelRef.parse(name, "models")
    if ref.alias:
        raise InvalidRequest(
            f"{name!r} is not a model or version to watch; write models/ID or models/ID/versions/N",
            field="models",
        )
    return ref


def _parse_verdicts(numbers: Sequence[image_pb2.Verdict.ValueType]) -> frozenset[bool]:
    for number in numbers:
        if number not in _VERDICTS:
            raise InvalidRequest(f"verdicts contains {number}; use NORMAL or ANOMALOUS", field="verdicts")
    return frozenset(_VERDICTS[number] for number in numbers)


def _parse_thumbnails(options: pb.ThumbnailOptions) -> ThumbnailRequest:
    side_px = options.max_side or _SIDE_PX
    if not _MIN_SIDE_PX <= side_px <= _MAX_SIDE_PX:
        raise InvalidRequest(
            f"thumbnails.max_side is {side_px} px; use {_MIN_SIDE_PX} to {_MAX_SIDE_PX} px",
            field="thumbnails.max_side",
        )
    per_second = options.per_second or _THUMBNAILS_PER_SECOND
    if not 0 < per_second <= _MAX_THUMBNAILS_PER_SECOND:
        raise InvalidRequest(
            f"thumbnails.per_second is {per_second:g}; use more than 0 and at most "
            f"{_MAX_THUMBNAILS_PER_SECOND:g}",
            field="thumbnails.per_second",
        )
    return ThumbnailRequest(ThumbnailStyle(side_px, options.heat), per_second)


def _parse_state_interval(request: pb.WatchInspectionsRequest) -> float:
    interval_s = parse_duration(request.state_interval, "state_interval") or _STATE_INTERVAL_S
    if not _MIN_STATE_INTERVAL_S <= interval_s <= _MAX_STATE_INTERVAL_S:
        raise InvalidRequest(
            f"state_interval is {interval_s:g} s; use {_MIN_STATE_INTERVAL_S:g} to "
            f"{_MAX_STATE_INTERVAL_S:g} s",
            field="state_interval",
        )
    return interval_s


def event_to_proto(event: InspectionEvent) -> pb.InspectionEvent:
    height, width = event.shape
    message = pb.InspectionEvent(
        time=timestamp_to_proto(event.time),
        camera=event.camera,
        model_version=str(event.version),
        verdict=verdict_to_proto(event.is_anomalous),
        score=event.score,
        threshold=event.threshold,
        p_value=event.p_value,
        sequence=event.sequence,
        capture_time=timestamp_to_proto(event.capture_time),
        item=event.item,
        regions=regions_to_proto(event.regions, event.mm_per_px),
        width=width,
        height=height,
    )
    if event.defect_class is not None:
        message.defect_class.CopyFrom(defect_class_to_proto(event.defect_class))
    if (part := event.part) is not None:
        message.region.CopyFrom(
            image_pb2.Region(left=part.left, top=part.top, width=part.width, height=part.height)
        )
    return message


def thumbnail_to_proto(thumbnail: InspectionThumbnail) -> pb.InspectionThumbnail:
    return pb.InspectionThumbnail(inspection=event_to_proto(thumbnail.event), jpeg=thumbnail.jpeg)


def camera_state_to_proto(camera: ActiveCamera, *, with_history: bool) -> pb.CameraState:
    """Return the state of a camera; ``with_history`` adds its last inspection and recent p-values."""
    state = pb.CameraState(
        camera=camera.name,
        images_per_second=camera.meter.per_second,
        inspected=camera.inspected,
        anomalous=camera.anomalous,
        dropped=camera.dropped,
        refused=camera.refused,
        hour_inspected=camera.hour_inspected.total,
        hour_anomalous=camera.hour_anomalous.total,
    )
    if with_history:
        state.recent_p_values.extend(camera.p_values)
        if camera.last is not None:
            state.last.CopyFrom(event_to_proto(camera.last))
    return state
