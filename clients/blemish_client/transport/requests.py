# SPDX-License-Identifier: Apache-2.0
"""Requests of the blocking and the asyncio client, built from keyword options."""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypedDict, cast

from blemish.v1 import image_pb2, inspection_pb2, job_pb2
from blemish.v1.image_pb2 import Image, Region
from blemish.v1.inspection_pb2 import (
    PRIORITY_UNSPECIFIED,
    STORE_UNSPECIFIED,
    STREAM_POLICY_LATEST,
    Outputs,
    ScoreRequest,
    StreamConfig,
    WatchInspectionsRequest,
)
from blemish.v1.job_pb2 import (
    JOB_PRIORITY_UNSPECIFIED,
    CreateJobRequest,
    Embed,
    Evaluate,
    Train,
)
from blemish.v1.model_pb2 import (
    CALIBRATION_CHOICE_KEEP_TARGET,
    CALIBRATION_CHOICE_OWN,
    CALIBRATION_CHOICE_UNSPECIFIED,
    CalibrationChoice,
    FrameMask,
    MaskAlignment,
    MaskPoint,
    MaskPolygon,
    MaskPolygons,
    RegionSettings,
    UpdateCalibrationRequest,
)
from blemish.v1.search_pb2 import SearchFilter, SearchRequest
from blemish_client.errors import Unavailable
from blemish_client.images import ImageLike, MaskLike, is_array, is_path, mask_file, set_image
from blemish_client.names import dataset_name, item_name, model_name
from blemish_client.transport.options import reject_unknown
from blemish_client.types.arrays import is_pil
from blemish_client.types.enums import JobPriority, Priority, Store, StreamPolicy, Verdict
from blemish_client.types.frame import sent_name

_PNG = b"\x89PNG\r\n\x1a\n"

SearchQuery: TypeAlias = "ImageLike | Sequence[float]"
"""An image, the name of an indexed item, or an embedding. A text is a name, and a ``Path`` a file."""

AnyPriority: TypeAlias = Priority | inspection_pb2.Priority.ValueType
AnyStore: TypeAlias = Store | inspection_pb2.Store.ValueType
AnyStreamPolicy: TypeAlias = StreamPolicy | inspection_pb2.StreamPolicy.ValueType
AnyVerdict: TypeAlias = Verdict | image_pb2.Verdict.ValueType
AnyJobPriority: TypeAlias = JobPriority | job_pb2.JobPriority.ValueType


class _ScoringOptions(TypedDict, total=False):
    """The options of single images and of streams."""

    anomaly_map: bool
    """True to receive the anomaly map."""
    embedding: bool
    """True to receive the embedding."""
    regions: bool
    """True to receive the outlines of the defects."""
    mask: bool
    """True to receive the outlines as a picture, a PNG of the scored image's size."""
    defect_class: bool
    """True to receive the most likely defect class of anomalous images."""
    preview: bool
    """True to receive the image as it was scored; of a stream only anomalous ones."""
    priority: AnyPriority
    """Scheduling priority among requests for the same model. Default: audit."""
    store: AnyStore
    """Images that the server keeps for search. Default: none."""
    camera: str
    """Name of the camera, at most 128 characters."""


class ScoreOptions(_ScoringOptions, total=False):
    """The options of ``score``."""

    capture_time: datetime | None
    """Time at which the image was taken, for an image that is kept. Without a time zone it is local."""
    name: str
    """Name of an image that is kept, for people. A path loses its folders. Default: that of the file."""


class FrameStreamOptions(_ScoringOptions, total=False):
    """The options of ``stream``."""

    policy: AnyStreamPolicy
    """Handling of a frame that arrives while others are being scored. Default: latest."""
    first: int
    """Sequence number of the first frame. Default: 0."""
    target_false_reject_rate: float | None
    """Share of good images that this stream may reject. Default: the model's calibration."""
    max_latency_s: float
    """Time after which the server refuses a frame, in seconds. 0 sets no limit."""
    on_unreachable: Callable[[Unavailable], None]
    """Called with the cause before each attempt to connect again."""


class InspectionWatchOptions(TypedDict, total=False):
    """The options of ``watch_inspections``."""

    cameras: Iterable[str]
    """Cameras whose events are sent. Default: all."""
    models: Iterable[str]
    """Models or versions whose events are sent. Default: all."""
    verdicts: Iterable[AnyVerdict]
    """Verdicts whose events are sent. Default: all."""
    thumbnail: int
    """Longer side of thumbnails in px, 16 to 1024. Default: 0, no thumbnails."""
    heat: bool
    """True to draw the anomaly map over the thumbnails."""
    thumbnails_per_second: float
    """Most thumbnails of each camera and verdict, at most 10. Default: 1."""
    state_interval_s: float
    """Time between two messages with the states of cameras, 1 to 60 s. Default: 2 s."""
    on_unreachable: Callable[[Unavailable], None]
    """Called with the cause before each attempt to connect again."""


def inspection_watch_request(options: InspectionWatchOptions) -> WatchInspectionsRequest:
    """Build the request for events of inspections."""
    reject_unknown(options, InspectionWatchOptions.__optional_keys__)
    request = WatchInspectionsRequest(
        cameras=options.get("cameras", ()),
        models=map(model_name, options.get("models", ())),
        verdicts=[image_pb2.Verdict.ValueType(verdict) for verdict in options.get("verdicts", ())],
    )
    if side := options.get("thumbnail", 0):
        request.thumbnails.max_side = side
        request.thumbnails.heat = options.get("heat", False)
        request.thumbnails.per_second = options.get("thumbnails_per_second", 0.0)
    if interval_s := options.get("state_interval_s", 0.0):
        request.state_interval.FromTimedelta(timedelta(seconds=interval_s))
    return request


def score_request(image: ImageLike, model: str, options: ScoreOptions) -> ScoreRequest:
    """Build the request for one image.

    Raises:
        OSError: if the image is a path, and the file cannot be read.
        ValueError: if the image is an array of another shape or type than ``raw_image`` takes.
    """
    reject_unknown(options, ScoreOptions.__optional_keys__)
    request = ScoreRequest(
        model=model_name(model),
        outputs=_outputs(options),
        priority=inspection_pb2.Priority.ValueType(options.get("priority", PRIORITY_UNSPECIFIED)),
        store=inspection_pb2.Store.ValueType(options.get("store", STORE_UNSPECIFIED)),
        camera=options.get("camera", ""),
        name=sent_name(options.get("name", ""), image),
    )
    if (moment := options.get("capture_time")) is not None:
        request.capture_time.FromDatetime(moment.astimezone(UTC))
    set_image(request.image, image)
    return request


def stream_config(model: str, options: FrameStreamOptions) -> StreamConfig:
    """Build the first message of a stream."""
    reject_unknown(options, FrameStreamOptions.__optional_keys__)
    config = StreamConfig(
        model=model_name(model),
        outputs=_outputs(options),
        policy=inspection_pb2.StreamPolicy.ValueType(options.get("policy", STREAM_POLICY_LATEST)),
        target_false_reject_rate=options.get("target_false_reject_rate"),
        priority=inspection_pb2.Priority.ValueType(options.get("priority", PRIORITY_UNSPECIFIED)),
        store=inspection_pb2.Store.ValueType(options.get("store", STORE_UNSPECIFIED)),
    )
    if max_latency_s := options.get("max_latency_s"):
        config.max_latency.FromTimedelta(timedelta(seconds=max_latency_s))
    return config


def _outputs(options: _ScoringOptions) -> Outputs:
    return Outputs(
        anomaly_map=options.get("anomaly_map", False),
        embedding=options.get("embedding", False),
        regions=options.get("regions", False),
        mask=options.get("mask", False),
        defect_class=options.get("defect_class", False),
        preview=options.get("preview", False),
    )


class SearchOptions(TypedDict, total=False):
    """The options of ``search``, as in ``SearchRequest``."""

    datasets: Iterable[str]
    categories: Iterable[str]
    classes: Iterable[str]
    where: str
    """Filter condition, for example ``class = "crack" AND score > 12``."""
    like: Iterable[str]
    """Names of items that hits are similar to."""
    unlike: Iterable[str]
    """Names of items that hits are dissimilar to."""
    labelled: str
    """Defect class, in place of a query: hits are similar to the items confirmed to be of it."""
    group_by: str
    group_size: int
    diversity: float
    exact: bool
    page_token: str
    thumbnails: bool
    region: tuple[int, int, int, int]
    """Part of the query image to find: left, top, width and height in px."""
    mask: MaskLike
    """Part of the query image to find, as a picture of the same size."""


def search_request(
    query: "SearchQuery | None", model: str, limit: int, options: SearchOptions
) -> SearchRequest:
    """Build the request of a search."""
    reject_unknown(options, SearchOptions.__optional_keys__)
    request = SearchRequest(
        model=model_name(model),
        limit=limit,
        filter=SearchFilter(
            datasets=map(dataset_name, options.get("datasets", ())),
            categories=options.get("categories", ()),
            classes=options.get("classes", ()),
        ),
        include_thumbnails=options.get("thumbnails", False),
        where=options.get("where", ""),
        like=map(item_name, options.get("like", ())),
        unlike=map(item_name, options.get("unlike", ())),
        group_by=options.get("group_by", ""),
        group_size=options.get("group_size", 0),
        diversity=options.get("diversity"),
        exact=options.get("exact", False),
        page_token=options.get("page_token", ""),
        packed=True,
    )
    if region := options.get("region"):
        left, top, width, height = region
        request.region.CopyFrom(Region(left=left, top=top, width=width, height=height))
    elif (mask := options.get("mask")) is not None:
        request.mask = mask_file(mask)
    if isinstance(query, str):
        request.item = item_name(query)
    elif query is not None:
        _set_query(request, query)
    elif labelled := options.get("labelled"):
        request.labelled = labelled
    return request


def _set_query(request: SearchRequest, query: SearchQuery) -> None:
    is_image = isinstance(query, (bytes, Image)) or is_path(query) or is_pil(query) or is_array(query)
    if is_image:
        set_image(request.image, cast(ImageLike, query))
    else:
        request.vector.values.extend(cast("Sequence[float]", query))


class JobOptions(TypedDict, total=False):
    """The options of all jobs."""

    request_id: str | None
    """Identifier of this request. Sending it twice creates one job. Default: a random one."""
    priority: AnyJobPriority
    """Priority among the jobs that wait for the same workers. Default: normal."""
    max_run_time_s: float
    """Time after which an attempt fails, in seconds. 0 sets no limit."""
    max_memory_bytes: int
    """Memory of the job's process above which an attempt fails. 0 sets no limit."""


_MAX_POLYGONS_BYTES = 1 << 20
"""Longest JSON with polygons. The server accepts 2000 points."""

TrainingMask: TypeAlias = "FrameMask | MaskLike"
"""A message, a picture, or a file or its content: a black-and-white PNG, or polygons as JSON."""


def aligned_mask(mask: FrameMask | None, reference: str) -> FrameMask:
    """Return a copy of a mask that moves with the part, as drawn on ``reference``, empty for the default.

    Without a mask the server rejects it, with the reason.
    """
    aligned = FrameMask()
    if mask is not None:
        aligned.CopyFrom(mask)
    aligned.alignment.CopyFrom(MaskAlignment(reference=reference))
    return aligned


def training_mask(mask: TrainingMask) -> FrameMask:
    """Build the message of a mask.

    Raises:
        ValueError: if the content is neither a PNG nor JSON with polygons.
    """
    if isinstance(mask, FrameMask):
        return mask
    mask = mask_file(mask)
    if mask.startswith(_PNG):
        return FrameMask(png=mask)
    if len(mask) > _MAX_POLYGONS_BYTES:
        raise ValueError(
            f"the mask is not a PNG and has {len(mask)} bytes; use a PNG, or polygons of at most "
            f"{_MAX_POLYGONS_BYTES} bytes"
        )
    try:
        return FrameMask(polygons=_mask_polygons(mask))
    except ValueError as error:
        raise ValueError(
            f"the mask is neither a PNG nor JSON with polygons ({error}); use a PNG, or "
            '{"width": W, "height": H, "ignore": [[[x, y], ...]]}'
        ) from error


def _mask_polygons(text: bytes) -> MaskPolygons:
    """Return the polygons in JSON.

    Raises:
        ValueError: with the reason, if it is another document.
    """
    try:
        drawing = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"not valid JSON at {place}" if text else "the file is empty") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError("not a text with JSON") from error
    if not isinstance(drawing, dict):
        raise ValueError("not an object with width, height and polygons")
    if unknown := sorted(drawing.keys() - {"width", "height", "include", "ignore"}):
        raise ValueError(f"unknown key {unknown[0]!r}")
    for side in ("width", "height"):
        if side not in drawing:
            raise ValueError(f"no {side!r}")
        if type(drawing[side]) is not int or abs(drawing[side]) >= 1 << 31:
            raise ValueError(f"{side!r} is not a number of pixels")
    return MaskPolygons(
        width=drawing["width"],
        height=drawing["height"],
        include=_polygons(drawing, "include"),
        ignore=_polygons(drawing, "ignore"),
    )


def _polygons(drawing: Mapping[str, Any], name: str) -> list[MaskPolygon]:
    try:
        return [
            MaskPolygon(points=[MaskPoint(x=x, y=y) for x, y in polygon])
            for polygon in drawing.get(name, ())
        ]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name!r} is not a list of polygons, each a list of points [x, y]") from error


def calibration_choice(keep_target: bool | None) -> CalibrationChoice.ValueType:
    """Return the calibration by which a promoted version judges; None leaves it open."""
    if keep_target is None:
        return CALIBRATION_CHOICE_UNSPECIFIED
    return CALIBRATION_CHOICE_KEEP_TARGET if keep_target else CALIBRATION_CHOICE_OWN


def calibration_request(
    version: str,
    *,
    target_false_reject_rate: float | None,
    threshold: float | None,
    trained: bool,
    revision: int | None,
    regions: RegionSettings | None,
) -> UpdateCalibrationRequest:
    """Return a request to change a calibration.

    Raises:
        ValueError: if more than one of the four thresholds is given, or nothing is changed.
    """
    given = (target_false_reject_rate, threshold, trained or None, revision)
    rules = sum(each is not None for each in given)
    if rules > 1 or (rules == 0 and regions is None):
        raise ValueError(
            "give exactly one of target_false_reject_rate, threshold, trained and revision, or regions"
        )
    request = UpdateCalibrationRequest(name=model_name(version), regions=regions)
    if target_false_reject_rate is not None:
        request.target_false_reject_rate = target_false_reject_rate
    elif threshold is not None:
        request.threshold = threshold
    elif revision is not None:
        request.revision = revision
    elif trained:
        request.trained.SetInParent()
    return request


def create_job_request(
    options: JobOptions,
    *,
    train: Train | None = None,
    embed: Embed | None = None,
    evaluate: Evaluate | None = None,
) -> CreateJobRequest:
    """Build the request for a job with one kind of work."""
    reject_unknown(options, JobOptions.__optional_keys__)
    request = CreateJobRequest(
        request_id=options.get("request_id") or str(uuid.uuid4()),
        train=train,
        embed=embed,
        evaluate=evaluate,
        priority=job_pb2.JobPriority.ValueType(options.get("priority", JOB_PRIORITY_UNSPECIFIED)),
    )
    if max_run_time_s := options.get("max_run_time_s"):
        request.limits.max_run_time.FromNanoseconds(round(max_run_time_s * 1e9))
    if max_memory_bytes := options.get("max_memory_bytes"):
        request.limits.max_memory_bytes = max_memory_bytes
    return request
