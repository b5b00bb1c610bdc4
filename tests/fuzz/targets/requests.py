# SPDX-License-Identifier: Apache-2.0
"""Messages of requests, and their conversion to the domain's values."""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError
from tests.fuzz.source import Source
from tests.fuzz.target import Target
from tritonclient.grpc import service_pb2

from blemish.v1 import inspection_pb2, job_pb2, model_pb2, search_pb2
from blemish.v1.image_pb2 import Image, RawImage, Region
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.record import Job, TrainSpec, now
from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.names import ModelRef
from blemish_server.auth.access import ANONYMOUS
from blemish_server.converters import inference, inspection, jobs, models, search

_LIMITS = ImageLimits(min_side=4, max_side=512, max_pixels=1 << 16)


def _score(message: inspection_pb2.ScoreRequest) -> None:
    inspection.parse_capture(message).image.pixels(_LIMITS)
    inspection.parse_priority(message.priority, "priority")
    inspection.parse_store(message.store, "store")
    ModelRef.parse(message.model)


def _stream(message: inspection_pb2.ScoreStreamRequest) -> None:
    inspection.parse_max_latency(message.config)
    inspection.parse_policy(message.config.policy, "config.policy")
    inspection.frame_header(message.frame)
    inspection.parse_capture(message.frame, ignore_invalid_time=True)


def _create_job(message: job_pb2.CreateJobRequest) -> None:
    limits = jobs.parse_limits(message.limits)
    jobs.parse_mask(message.train, _LIMITS)
    spec = jobs.parse_spec(message)
    if isinstance(spec, TrainSpec):
        assert spec.detector
    job = Job(id="a", spec=spec, limits=limits, created=now())
    assert Job.model_validate_json(job.model_dump_json()).spec == spec
    jobs.job_to_proto(job)


def _search(message: search_pb2.SearchRequest) -> None:
    search.parse_search(message, _LIMITS)


def _label(message: search_pb2.LabelItemRequest) -> None:
    search.parse_label(message)


def _calibrate(message: model_pb2.UpdateCalibrationRequest) -> None:
    models.parse_calibration_change(message, ANONYMOUS)
    models.parse_expected_revision(message)


def _infer(message: Any) -> None:
    inference.parse_images(message)
    inference.parse_outputs(message)
    inference.parse_request_priority(message)
    inference.parse_timeout(message)


_PARSERS: tuple[tuple[type[Any], Callable[[Any], None]], ...] = (
    (inspection_pb2.ScoreRequest, _score),
    (inspection_pb2.ScoreStreamRequest, _stream),
    (job_pb2.CreateJobRequest, _create_job),
    (search_pb2.SearchRequest, _search),
    (search_pb2.LabelItemRequest, _label),
    (model_pb2.UpdateCalibrationRequest, _calibrate),
    (service_pb2.ModelInferRequest, _infer),
)


def run(data: bytes) -> None:
    source = Source(data)
    kind, parse = source.choice(_PARSERS)
    parse(kind.FromString(source.rest()))


def seeds() -> dict[str, bytes]:
    raw = RawImage(data=bytes(64), pixel_format="Mono8", width=8, height=8)
    examples: tuple[Any, ...] = (
        inspection_pb2.ScoreRequest(
            model="models/tile", image=Image(raw=raw, region=Region(width=4, height=4)), camera="1"
        ),
        inspection_pb2.ScoreStreamRequest(config=inspection_pb2.StreamConfig(model="models/tile")),
        job_pb2.CreateJobRequest(
            train=job_pb2.Train(dataset="datasets/tile", seed=1, patchcore=job_pb2.PatchCore(neighbors=3))
        ),
        search_pb2.SearchRequest(
            model="models/tile", item="items/123e4567-e89b-12d3-a456-426614174000", where="score>1", limit=3
        ),
        search_pb2.LabelItemRequest(label=search_pb2.LABEL_CONFIRMED, label_class="crack"),
        model_pb2.UpdateCalibrationRequest(threshold=1.5, author="maria", comment="stricter"),
        service_pb2.ModelInferRequest(
            model_name="tile",
            inputs=[
                service_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="BYTES", shape=[1])
            ],
            raw_input_contents=[b"\4\0\0\0abcd"],
        ),
    )
    jobs_ = job_pb2.CreateJobRequest(train=job_pb2.Train(dataset="datasets/tile"))
    jobs_.train.efficientad.max_duration.seconds = 60
    jobs_.limits.max_run_time.seconds = 60
    jobs_.train.mask.polygons.CopyFrom(
        model_pb2.MaskPolygons(
            width=8,
            height=8,
            ignore=[
                model_pb2.MaskPolygon(
                    points=[model_pb2.MaskPoint(x=x, y=y) for x, y in ((0, 0), (5, 0), (5, 5))]
                )
            ],
        )
    )
    named = {
        kind.__name__: bytes([number]) + message.SerializeToString()
        for number, ((kind, _), message) in enumerate(zip(_PARSERS, examples, strict=True))
    }
    return named | {"efficientad": b"\2" + jobs_.SerializeToString()}


_WORDS = (
    "datasets/tile",
    "models/tile",
    "items/",
    "Mono12",
    "image",
    "BYTES",
    "REGIONS",
    "priority",
    "timeout",
)

TARGET = Target(run, seeds, words=_WORDS, expected=(InvalidRequest, DecodeError))
