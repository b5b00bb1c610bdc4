# SPDX-License-Identifier: Apache-2.0

import pytest

from blemish.v1 import job_pb2 as pb
from blemish.v1.model_pb2 import FrameMask, MaskAlignment, MaskPoint, MaskPolygons
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.jobs.record import Job, JobPriority, Limits, TrainSpec, now
from blemish_core.platform.errors import InvalidRequest
from blemish_server.converters.jobs import (
    job_to_proto,
    parse_limits,
    parse_mask,
    parse_priority,
    parse_reference,
)


def test_unset_priority_and_limits_have_their_defaults() -> None:
    assert parse_priority(pb.JOB_PRIORITY_UNSPECIFIED) is JobPriority.NORMAL
    assert parse_limits(pb.JobLimits()) == Limits()


def test_unknown_priority_of_a_newer_client_is_rejected() -> None:
    request = pb.CreateJobRequest()
    request.MergeFromString(b"\x28\x63")  # field 5, value 99
    with pytest.raises(InvalidRequest, match="priority is 99; use HIGH, NORMAL or LOW"):
        parse_priority(request.priority)


@pytest.mark.parametrize("seconds", [0, -1])
def test_run_time_that_is_not_positive_is_rejected(seconds: int) -> None:
    limits = pb.JobLimits()
    limits.max_run_time.FromSeconds(seconds)
    with pytest.raises(InvalidRequest, match=f"max_run_time is {seconds} s; set it above 0"):
        parse_limits(limits)


def test_negative_memory_limit_is_rejected() -> None:
    with pytest.raises(InvalidRequest, match="max_memory_bytes is -1; set it above 0"):
        parse_limits(pb.JobLimits(max_memory_bytes=-1))


def drawn(**polygons: list[list[tuple[float, float]]]) -> pb.Train:
    message = MaskPolygons(width=48, height=32)
    for name, of_kind in polygons.items():
        for points in of_kind:
            getattr(message, name).add().points.extend(MaskPoint(x=x, y=y) for x, y in points)
    return pb.Train(dataset="datasets/tile", mask=FrameMask(polygons=message))


def test_mask_is_parsed_from_png_or_polygons() -> None:
    assert parse_mask(pb.Train(), ImageLimits()) is None
    train = drawn(ignore=[[(0, 0), (16, 0), (16, 32), (0, 32)]])
    mask = parse_mask(train, ImageLimits())
    assert mask is not None
    assert mask.shape == (32, 48)
    assert mask.ignored_share == pytest.approx(1 / 3)
    same = parse_mask(pb.Train(mask=FrameMask(png=mask.to_png())), ImageLimits())
    assert same is not None
    assert same.summary() == mask.summary()


@pytest.mark.parametrize(
    ("train", "field", "reason"),
    [
        (pb.Train(mask=FrameMask()), "train.mask", "set png or polygons"),
        (
            pb.Train(mask=FrameMask(alignment=MaskAlignment())),
            "train.mask.alignment",
            "but train.mask is empty; set png or polygons",
        ),
        (pb.Train(mask=FrameMask(png=b"")), "train.mask.png", "not a PNG"),
        (
            drawn(include=[[(0, 0), (9, 9)]]),
            "train.mask.polygons.include",
            "polygon 1 of include has 2 points",
        ),
        (
            drawn(ignore=[[(0, 0), (48, 0), (48, 32), (0, 32)]]),
            "train.mask.polygons",
            "ignores every pixel",
        ),
    ],
)
def test_invalid_mask_is_rejected_with_its_field(train: pb.Train, field: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        parse_mask(train, ImageLimits())
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("mask", "reference"),
    [
        (FrameMask(png=b"png"), None),
        (FrameMask(png=b"png", alignment=MaskAlignment()), ""),
        (FrameMask(png=b"png", alignment=MaskAlignment(reference="3.png")), "3.png"),
    ],
)
def test_reference_is_only_set_for_a_mask_that_moves(mask: FrameMask, reference: str | None) -> None:
    assert parse_reference(mask) == reference


@pytest.mark.parametrize("reference", [None, "train/good/3.png"])
def test_job_describes_the_alignment_of_its_mask(reference: str | None) -> None:
    mask = MaskSummary(sha256="a" * 64, width=48, height=32, ignored_share=0.25, reference=reference)
    job = Job(id="j", spec=TrainSpec(dataset="tile", model_id="m", mask=mask), created=now())
    shown = job_to_proto(job).train.mask
    assert shown.HasField("alignment") == (reference is not None)
    assert shown.alignment.reference == (reference or "")


def test_job_describes_its_mask_without_the_content() -> None:
    mask = MaskSummary(sha256="a" * 64, width=48, height=32, ignored_share=0.25)
    job = Job(id="j", spec=TrainSpec(dataset="tile", model_id="m", mask=mask), created=now())
    shown = job_to_proto(job).train.mask
    assert shown == FrameMask(sha256="a" * 64, width=48, height=32, ignored_share=0.25)
