# SPDX-License-Identifier: Apache-2.0
"""Messages of InspectionService, and the images that other services share with it."""

from datetime import UTC, datetime

import numpy as np

from blemish.v1 import image_pb2
from blemish.v1 import inspection_pb2 as pb
from blemish_core.imaging.geometry import MAX_PIXELS
from blemish_core.imaging.image_input import ImageInput, RawLayout, Region
from blemish_core.platform.errors import InvalidRequest
from blemish_core.search.labelled_items import Consensus, DefectClass
from blemish_server.converters.enums import EnumMapping
from blemish_server.converters.maps import shrunk_map
from blemish_server.converters.regions import regions_to_proto
from blemish_server.converters.values import duration_to_proto, parse_duration, verdict_to_proto
from blemish_server.scoring.batcher import Priority
from blemish_server.scoring.frame_queue import (
    DroppedFrames,
    FrameHeader,
    RefusedFrame,
    Result,
    ScoredFrame,
    StreamPolicy,
)
from blemish_server.scoring.inspection import Capture, Inspection, NamingPolicy, StoragePolicy
from blemish_server.transport.status import frame_refusal

_MAX_CAMERA = 128
_MAX_NAME = 255

PRIORITIES: EnumMapping[Priority, pb.Priority.ValueType] = EnumMapping(
    {
        Priority.LINE_STOP: pb.PRIORITY_LINE_STOP,
        Priority.AUDIT: pb.PRIORITY_AUDIT,
        Priority.BACKFILL: pb.PRIORITY_BACKFILL,
    }
)
CONSENSUS: EnumMapping[Consensus, pb.Consensus.ValueType] = EnumMapping(
    {
        Consensus.UNANIMOUS: pb.CONSENSUS_UNANIMOUS,
        Consensus.MAJORITY: pb.CONSENSUS_MAJORITY,
        Consensus.DIVIDED: pb.CONSENSUS_DIVIDED,
        Consensus.FALSE_ALARMS: pb.CONSENSUS_FALSE_ALARMS,
        Consensus.DISTANT: pb.CONSENSUS_DISTANT,
        Consensus.TOO_FEW_LABELS: pb.CONSENSUS_TOO_FEW_LABELS,
        Consensus.UNAVAILABLE: pb.CONSENSUS_UNAVAILABLE,
    }
)
_STORAGE: EnumMapping[StoragePolicy, pb.Store.ValueType] = EnumMapping(
    {
        StoragePolicy.NONE: pb.STORE_NONE,
        StoragePolicy.ANOMALOUS: pb.STORE_ANOMALOUS,
        StoragePolicy.ALL: pb.STORE_ALL,
    }
)
POLICIES: EnumMapping[StreamPolicy, pb.StreamPolicy.ValueType] = EnumMapping(
    {
        StreamPolicy.LATEST: pb.STREAM_POLICY_LATEST,
        StreamPolicy.BLOCK: pb.STREAM_POLICY_BLOCK,
        StreamPolicy.REJECT: pb.STREAM_POLICY_REJECT,
    }
)


def parse_image(image: image_pb2.Image, field: str) -> ImageInput:
    """Return an image without decoding it.

    Raises:
        InvalidRequest: if the message contains no image.
    """
    region = None
    if image.HasField("region"):
        region = Region(image.region.left, image.region.top, image.region.width, image.region.height)
    if image.WhichOneof("content") == "raw":
        raw = image.raw
        layout = RawLayout(raw.pixel_format, raw.width, raw.height, raw.stride)
        return ImageInput(raw.data, layout, region)
    if encoded := image.encoded:
        return ImageInput(encoded, None, region)
    raise InvalidRequest(f"{field}.encoded is empty; send an encoded image, or {field}.raw", field=field)


def parse_priority(number: pb.Priority.ValueType, field: str) -> Priority | None:
    """Return the requested priority, None if unspecified.

    Raises:
        InvalidRequest: if the priority is unknown.
    """
    return PRIORITIES.parse(number, field) if number else None


def parse_store(number: pb.Store.ValueType, field: str) -> StoragePolicy:
    """Return the images to record, none if unspecified.

    Raises:
        InvalidRequest: if the choice is unknown.
    """
    return _STORAGE.parse(number, field) if number else StoragePolicy.NONE


def parse_policy(number: pb.StreamPolicy.ValueType, field: str) -> StreamPolicy:
    """Return the policy of a stream, LATEST if unspecified.

    Raises:
        InvalidRequest: if the policy is unknown.
    """
    return POLICIES.parse(number, field) if number else StreamPolicy.LATEST


def parse_max_latency(config: pb.StreamConfig) -> float | None:
    """Return the maximum latency of a stream in seconds, None if unspecified.

    Raises:
        InvalidRequest: if it is negative or out of range.
    """
    latency_s = parse_duration(config.max_latency, "config.max_latency")
    if latency_s < 0:
        raise InvalidRequest(
            f"max_latency is {latency_s:g} s; use 0 or more seconds", field="config.max_latency"
        )
    return latency_s or None


def parse_capture(message: pb.ScoreRequest | pb.Frame, *, ignore_invalid_time: bool = False) -> Capture:
    """Return the image of a request with its camera, its name and its time.

    Args:
        message: the request or frame.
        ignore_invalid_time: True to treat a time out of range as unknown.

    Raises:
        InvalidRequest: if the image is missing, a text too long, or the time out of range.
    """
    if len(message.camera) > _MAX_CAMERA:
        raise InvalidRequest(
            f"camera has {len(message.camera)} characters; use at most {_MAX_CAMERA}", field="camera"
        )
    if len(message.name) > _MAX_NAME:
        raise InvalidRequest(
            f"name has {len(message.name)} characters; use at most {_MAX_NAME}", field="name"
        )
    image = parse_image(message.image, "image")
    try:
        time = parse_capture_time(message, "capture_time")
    except InvalidRequest:
        if not ignore_invalid_time:
            raise
        time = None
    sequence = message.sequence if isinstance(message, pb.Frame) else None
    return Capture(image, message.camera, time, sequence=sequence, name=message.name)


def parse_capture_time(message: pb.ScoreRequest | pb.Frame, field: str) -> datetime | None:
    """Return the time at which an image was taken, None if the request does not contain it.

    Raises:
        InvalidRequest: if the timestamp is out of range.
    """
    if not message.HasField("capture_time"):
        return None
    try:
        return message.capture_time.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"{field} is out of range; use the years 1 to 9999, with nanos of 0 to 999,999,999", field=field
        ) from error


def frame_header(frame: pb.Frame) -> FrameHeader:
    """Return what a response repeats of a frame, as it came and without validation."""
    time = None
    if frame.HasField("capture_time"):
        time = frame.capture_time.seconds, frame.capture_time.nanos
    return FrameHeader(frame.camera, frame.sequence, time)


def stream_result_to_proto(result: Result[pb.Inspection]) -> pb.ScoreStreamResponse:
    message = pb.ScoreStreamResponse(camera=result.header.camera, sequence=result.header.sequence)
    if result.header.capture_time is not None:
        message.capture_time.seconds, message.capture_time.nanos = result.header.capture_time
    match result:
        case ScoredFrame():
            message.inspection.CopyFrom(result.answer)
        case RefusedFrame():
            message.refusal.CopyFrom(frame_refusal(result.error))
        case DroppedFrames():
            message.dropped.last_sequence = result.last_sequence
    return message


def parse_naming(outputs: pb.Outputs, *, waits: bool) -> NamingPolicy:
    """Return the handling of the class of defects, in a call that ``waits`` for labels or does not."""
    if not outputs.defect_class:
        return NamingPolicy.NONE
    return NamingPolicy.WAIT if waits else NamingPolicy.AT_ONCE


def defect_class_to_proto(found: DefectClass) -> pb.DefectClass:
    return pb.DefectClass(
        class_name=found.name,
        share=found.share,
        neighbors=found.neighbors,
        consensus=CONSENSUS.to_proto(found.consensus),
    )


def inspection_to_proto(
    inspection: Inspection, outputs: pb.Outputs, *, max_map_pixels: int = MAX_PIXELS
) -> pb.Inspection:
    """Return the message of an inspection; a map of more than ``max_map_pixels`` is shrunk."""
    prediction, timings = inspection.prediction, inspection.timings
    message = pb.Inspection(
        score=inspection.score,
        p_value=inspection.p_value,
        verdict=verdict_to_proto(inspection.is_anomalous),
        threshold=inspection.threshold,
        model_version=inspection.manifest.name,
        calibration_revision=inspection.revision.number,
        runtime=inspection.runtime,
        notes=inspection.notes,
        item=inspection.item,
        timings=pb.Timings(
            decode=duration_to_proto(timings.decode_s),
            queue=duration_to_proto(timings.queue_s),
            inference=duration_to_proto(timings.inference_s),
        ),
    )
    if outputs.anomaly_map:
        pixel_scores = shrunk_map(prediction.anomaly_map, max_map_pixels)
        rows, columns = pixel_scores.shape
        message.anomaly_map.CopyFrom(
            image_pb2.AnomalyMap(
                width=columns,
                height=rows,
                values=np.ascontiguousarray(pixel_scores, dtype="<f4").tobytes(),
                threshold=inspection.calibration.pixel_threshold,
            )
        )
    if outputs.embedding:
        message.embedding.extend(prediction.embedding.tolist())
    if outputs.regions:
        mm_per_px = inspection.calibration.regions.mm_per_px
        message.regions.extend(regions_to_proto(inspection.regions or (), mm_per_px))
    if inspection.alignment is not None and (motion := inspection.alignment.motion) is not None:
        message.alignment.CopyFrom(
            pb.Alignment(
                dx=motion.dx_px,
                dy=motion.dy_px,
                angle=motion.angle_deg,
                quality=inspection.alignment.quality,
            )
        )
    if outputs.mask:
        message.mask = inspection.mask
    if outputs.preview and inspection.preview:
        message.preview.jpeg = inspection.preview
        message.preview.height, message.preview.width = inspection.shape
    if inspection.defect_class is not None:
        message.defect_class.CopyFrom(defect_class_to_proto(inspection.defect_class))
    return message
