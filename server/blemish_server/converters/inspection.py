# SPDX-License-Identifier: Apache-2.0
"""Messages of InspectionService, and the images that other services share with it."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from blemish.v1 import image_pb2
from blemish.v1 import inspection_pb2 as pb
from blemish_core.imaging.image_input import ImageInput, RawLayout, Region
from blemish_core.platform.errors import InvalidRequest
from blemish_server.converters.enums import EnumMapping
from blemish_server.converters.values import duration_to_proto, verdict_to_proto
from blemish_server.scoring.batcher import Priority
from blemish_server.scoring.scorer import Inspected

PRIORITIES: EnumMapping[Priority, pb.Priority.ValueType] = EnumMapping(
    {
        Priority.LINE_STOP: pb.PRIORITY_LINE_STOP,
        Priority.AUDIT: pb.PRIORITY_AUDIT,
        Priority.BACKFILL: pb.PRIORITY_BACKFILL,
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
    raise InvalidRequest(
        f"{field}.encoded is empty; send a JPEG, PNG, BMP, TIFF or WebP, or {field}.raw", field=field
    )


def parse_priority(number: pb.Priority.ValueType, field: str) -> Priority | None:
    """Return the requested priority, None if unspecified.

    Raises:
        InvalidRequest: if the priority is unknown.
    """
    return PRIORITIES.parse(number, field) if number else None


def parse_store(number: pb.Store.ValueType, field: str) -> Callable[[Inspected], bool]:
    """Return the predicate that selects the inspected images to store.

    Raises:
        InvalidRequest: if the choice is unknown.
    """
    match number:
        case pb.STORE_UNSPECIFIED | pb.STORE_NONE:
            return lambda inspection: False
        case pb.STORE_ANOMALOUS:
            return lambda inspection: inspection.calibration.calibration.anomalous(inspection.outcome.score)
        case pb.STORE_ALL:
            return lambda inspection: True
    raise InvalidRequest(f"{field} is {number}; use NONE, ANOMALOUS or ALL", field=field)


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


def inspection_to_proto(inspection: Inspected, outputs: pb.Outputs) -> pb.Inspection:
    prediction, calibration = inspection.outcome, inspection.calibration.calibration
    message = pb.Inspection(
        score=prediction.score,
        p_value=calibration.p_value(prediction.score),
        verdict=verdict_to_proto(calibration.anomalous(prediction.score)),
        threshold=calibration.threshold,
        model_version=inspection.manifest.name,
        calibration_revision=inspection.calibration.number,
        runtime=inspection.runtime,
        timings=pb.Timings(
            decode=duration_to_proto(inspection.decode_s),
            queue=duration_to_proto(inspection.queue_s),
            inference=duration_to_proto(inspection.inference_s),
        ),
    )
    if outputs.anomaly_map:
        rows, columns = prediction.anomaly_map.shape
        message.anomaly_map.CopyFrom(
            image_pb2.AnomalyMap(
                width=columns,
                height=rows,
                values=np.ascontiguousarray(prediction.anomaly_map, dtype="<f4").tobytes(),
                threshold=calibration.pixel_threshold,
            )
        )
    if outputs.embedding:
        message.embedding.extend(prediction.embedding.tolist())
    return message
