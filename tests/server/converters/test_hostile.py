# SPDX-License-Identifier: Apache-2.0
"""Requests that cost more than they should, or hold values that no later step could represent."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from blemish.v1 import job_pb2, model_pb2, search_pb2
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.record import Job, now
from blemish_core.platform.errors import InvalidRequest
from blemish_server.converters.inference import parse_images, parse_outputs
from blemish_server.converters.jobs import job_to_proto, parse_limits, parse_mask, parse_spec, parse_states
from blemish_server.converters.search import parse_search
from blemish_server.transport.pagination import Page

LIMITS = ImageLimits()
LARGEST = 2**63 - 1
MOST_S = 0.1
"""CPU time in which a message of megabytes must be rejected, in seconds."""


def infer(**fields: Any) -> Any:
    tensor = service_pb2.ModelInferRequest.InferInputTensor
    return service_pb2.ModelInferRequest(
        inputs=[tensor(name="image", datatype="BYTES", shape=fields.pop("shape", [1]))], **fields
    )


def search(**fields: Any) -> search_pb2.SearchRequest:
    return search_pb2.SearchRequest(model="models/tile", vector=search_pb2.Embedding(values=[1]), **fields)


def polygons(*counts: int) -> job_pb2.Train:
    drawn = model_pb2.MaskPolygons(
        width=64,
        height=64,
        ignore=[model_pb2.MaskPolygon(points=[model_pb2.MaskPoint()] * count) for count in counts],
    )
    return job_pb2.Train(mask=model_pb2.FrameMask(polygons=drawn))


def parse_a_search(message: search_pb2.SearchRequest) -> object:
    return parse_search(message, LIMITS)


def parse_a_mask(message: job_pb2.Train) -> object:
    return parse_mask(message, LIMITS)


def requested(count: int) -> Any:
    tensor = service_pb2.ModelInferRequest.InferRequestedOutputTensor
    return service_pb2.ModelInferRequest(outputs=[tensor(name="score")] * count)


ITEM = "items/123e4567-e89b-12d3-a456-426614174000"
MANY = 200_000
LARGE: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "shape": (lambda: infer(shape=[LARGEST] * MANY, raw_input_contents=[b"\0" * 4]), parse_images),
    "elements": (lambda: infer(raw_input_contents=[bytes(20 * MANY)]), parse_images),
    "outputs": (lambda: requested(MANY), parse_outputs),
    "points": (lambda: polygons(MANY), parse_a_mask),
    "polygons": (lambda: polygons(*[0] * MANY), parse_a_mask),
    "states": (
        lambda: job_pb2.ListJobsRequest(states=[job_pb2.JOB_STATE_QUEUED] * 10 * MANY),
        lambda message: parse_states(message.states),
    ),
    "like": (lambda: search(like=[ITEM] * MANY), parse_a_search),
    "unlike": (lambda: search(unlike=[ITEM] * MANY), parse_a_search),
    "datasets": (
        lambda: search(filter=search_pb2.SearchFilter(datasets=["datasets/tile"] * MANY)),
        parse_a_search,
    ),
    "classes": (lambda: search(filter=search_pb2.SearchFilter(classes=["crack"] * MANY)), parse_a_search),
    "categories": (lambda: search(filter=search_pb2.SearchFilter(categories=["a"] * MANY)), parse_a_search),
}


@pytest.mark.parametrize("name", LARGE)
def test_repeated_field_without_end_is_rejected_at_once(name: str) -> None:
    build, parse = LARGE[name]
    message = build()
    start_s = time.thread_time()
    with pytest.raises(InvalidRequest):
        parse(message)
    assert time.thread_time() - start_s < MOST_S


@pytest.mark.parametrize("seconds", [10**12, LARGEST, -(2**63)])
def test_time_beyond_the_range_of_durations_is_rejected(seconds: int) -> None:
    limits = job_pb2.JobLimits()
    limits.max_run_time.seconds = seconds
    with pytest.raises(InvalidRequest, match="max_run_time"):
        parse_limits(limits)
    train = job_pb2.Train(dataset="datasets/tile")
    train.efficientad.max_duration.seconds = seconds
    with pytest.raises(InvalidRequest, match="max_duration"):
        parse_spec(job_pb2.CreateJobRequest(train=train))


def test_job_with_the_longest_time_can_be_read_and_shown() -> None:
    request = job_pb2.CreateJobRequest(train=job_pb2.Train(dataset="datasets/tile"))
    for duration in (request.limits.max_run_time, request.train.efficientad.max_duration):
        duration.seconds = 315_576_000_000
    job = Job(id="a", spec=parse_spec(request), limits=parse_limits(request.limits), created=now())
    message = job_to_proto(Job.model_validate_json(job.model_dump_json()))
    assert message.limits.max_run_time.seconds == 315_576_000_000
    assert message.train.efficientad.max_duration.seconds == 315_576_000_000


def test_forged_page_token_of_a_search_is_rejected() -> None:
    fresh = parse_search(search(), LIMITS)
    for last in ("9" * 5000, "²", "-1", "x"):
        with pytest.raises(InvalidRequest, match="page_token"):
            parse_search(search(page_token=fresh.page.token(last)), LIMITS)


def test_forged_token_of_a_listing_of_items_is_rejected() -> None:
    token = Page("items", "", 1).token("not a UUID")
    with pytest.raises(InvalidRequest, match="page_token"):
        Page.parse("items", 1, token).item()
