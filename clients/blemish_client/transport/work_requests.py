# SPDX-License-Identifier: Apache-2.0
"""Requests about jobs and models, for both clients."""

import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, TypedDict

from blemish.v1 import job_pb2
from blemish.v1.job_pb2 import (
    CreateJobRequest,
    EfficientAd,
    Embed,
    EstimateTrainingRequest,
    Evaluate,
    Job,
    ListJobsRequest,
    PatchCore,
)
from blemish.v1.model_pb2 import (
    CompareModelsRequest,
    FrameMask,
    GetReportRequest,
    ListSuspectsRequest,
    PreviewCalibrationRequest,
    PromoteModelRequest,
    RegionSettings,
    UpdateCalibrationRequest,
)
from blemish_client.names import dataset_name, job_name, model_name
from blemish_client.transport.options import reject_unknown
from blemish_client.transport.requests import (
    JobOptions,
    TrainingMask,
    aligned_mask,
    calibration_choice,
    calibration_request,
    create_job_request,
    training_mask,
)
from blemish_client.types.enums import JobState


def name_of(job: Job | str) -> str:
    return job_name(job) if isinstance(job, str) else job.name


class TrainOptions(JobOptions, total=False):
    """The options of ``train``."""

    model_id: str
    """Id of the model. Default: ``{dataset}-{detector}``."""
    detector: PatchCore | EfficientAd | None
    """Settings of the detector. Default: PatchCore with its defaults."""
    seed: int
    """Seed of the training. The same seed and images give the same model."""
    target_false_reject_rate: float
    """Share of good images that the threshold may reject, at most 0.5. Default: the server's, 0.05."""
    promote: bool
    """True to promote the version to production."""
    keep_target: bool | None
    """With ``promote``, as in the method ``promote``. With None the version is not promoted if a
    calibration that a person has set would be lost; the job then has a warning."""
    false_alarms_of: str
    """Model from whose index images labelled as good are also learned."""
    mask: "TrainingMask | None"
    """Pixels that the model looks at, None for all: a black-and-white picture, white where it looks, or
    polygons as JSON with width, height, and the lists include and ignore. Give a path, the content of a
    file, an array (height, width), or an image of Pillow."""
    mask_of: str
    """Version with a mask, which is used in place of ``mask``, with its alignment."""
    align: bool
    """True to move the mask with the part, which may be shifted and slightly turned in a frame."""
    reference: str
    """Image of the dataset on which the mask was drawn, such as ``train/good/003.png``. Empty for the first
    training image; otherwise it implies ``align``."""


_TRAIN_KEYS = TrainOptions.__optional_keys__ - JobOptions.__optional_keys__


def train_request(dataset: str, options: TrainOptions) -> CreateJobRequest:
    """Build the request for a training.

    Raises:
        OSError: if the mask is a path, and the file cannot be read.
        ValueError: if the mask is neither a PNG nor JSON with polygons.
    """
    reject_unknown(options, TrainOptions.__optional_keys__)
    mask, reference = options.get("mask"), options.get("reference", "")
    frame_mask = training_mask(mask) if mask is not None else None
    if version := options.get("mask_of"):
        if mask is not None:
            raise ValueError("mask and mask_of exclude each other; give one of them")
        frame_mask = FrameMask(version=model_name(version))
    if options.get("align") or reference:
        frame_mask = aligned_mask(frame_mask, reference)
    detector, learned = options.get("detector"), options.get("false_alarms_of")
    work = job_pb2.Train(
        dataset=dataset_name(dataset),
        model_id=options.get("model_id", ""),
        patchcore=None if isinstance(detector, EfficientAd) else detector or PatchCore(),
        efficientad=detector if isinstance(detector, EfficientAd) else None,
        seed=options.get("seed", 0),
        target_false_reject_rate=options.get("target_false_reject_rate", 0.0),
        promote=options.get("promote", False),
        promoted_calibration=calibration_choice(options.get("keep_target")),
        false_alarms_of=model_name(learned) if learned else "",
        mask=frame_mask,
    )
    return create_job_request(_job_options(options), train=work)


def estimate_request(dataset: str, options: TrainOptions) -> EstimateTrainingRequest:
    """Build the request for an estimate, with the errors of ``train_request``."""
    train = train_request(dataset, options).train
    train.ClearField("mask")  # it may be large, and the estimate ignores it
    return EstimateTrainingRequest(train=train)


def _job_options(options: TrainOptions) -> JobOptions:
    remaining = options.copy()
    for key in _TRAIN_KEYS:
        remaining.pop(key, None)  # type: ignore[misc]
    return remaining


def embed_request(model: str, dataset: str | None, options: JobOptions) -> CreateJobRequest:
    if dataset is None:
        work = Embed(model=model_name(model), kept_frames=True)
    else:
        work = Embed(model=model_name(model), dataset=dataset_name(dataset))
    return create_job_request(options, embed=work)


def evaluate_request(model: str, dataset: str, options: JobOptions) -> CreateJobRequest:
    work = Evaluate(model=model_name(model), dataset=dataset_name(dataset))
    return create_job_request(options, evaluate=work)


def jobs_request(states: Iterable[JobState | job_pb2.JobState.ValueType]) -> ListJobsRequest:
    return ListJobsRequest(states=[job_pb2.JobState.ValueType(state) for state in states])


def compare_request(first: str, second: str, dataset: str) -> CompareModelsRequest:
    return CompareModelsRequest(
        first=model_name(first),
        second=model_name(second),
        dataset=dataset_name(dataset) if dataset else "",
    )


def suspects_request(dataset: str, model: str, limit: int) -> ListSuspectsRequest:
    return ListSuspectsRequest(
        model=model_name(model) if model else "", dataset=dataset_name(dataset), limit=limit
    )


def promote_request(version: str, keep_target: bool | None, author: str) -> PromoteModelRequest:
    return PromoteModelRequest(
        name=model_name(version), calibration=calibration_choice(keep_target), author=author
    )


def report_request(model: str, evaluation: Job | str) -> GetReportRequest:
    return GetReportRequest(name=model_name(model), evaluation=name_of(evaluation) if evaluation else "")


class CalibrationOptions(TypedDict, total=False):
    """A change of a calibration: one of the first four keys, ``regions``, or both."""

    target_false_reject_rate: float | None
    """Share of good images that the new threshold may reject, at most 0.5."""
    threshold: float | None
    """New threshold, in units of the version's scores."""
    trained: bool
    """True to restore the threshold of the training."""
    revision: int | None
    """Earlier revision whose threshold and regions to restore."""
    regions: RegionSettings | None
    """New settings of regions, which replace all present ones."""


def update_request(
    version: str,
    change: CalibrationOptions,
    *,
    author: str,
    comment: str,
    expected_revision: int,
    acknowledge_extreme: bool,
) -> UpdateCalibrationRequest:
    """Build the request to change a calibration.

    Raises:
        ValueError: if more than one of the four thresholds is given, or nothing is changed.
    """
    request = _change_request(version, change)
    request.author, request.comment = author, comment
    request.expected_revision, request.acknowledge_extreme = expected_revision, acknowledge_extreme
    return request


def preview_request(
    version: str, change: CalibrationOptions, *, period: timedelta | None, max_frames: int
) -> PreviewCalibrationRequest:
    """Build the request to preview a change of a calibration.

    Raises:
        ValueError: as for ``update_request``.
    """
    request = PreviewCalibrationRequest(change=_change_request(version, change), max_frames=max_frames)
    if period is not None:
        request.period.FromTimedelta(period)
    return request


def _change_request(version: str, change: CalibrationOptions) -> UpdateCalibrationRequest:
    reject_unknown(change, CalibrationOptions.__optional_keys__)
    return calibration_request(
        version,
        target_false_reject_rate=change.get("target_false_reject_rate"),
        threshold=change.get("threshold"),
        trained=change.get("trained", False),
        revision=change.get("revision"),
        regions=change.get("regions"),
    )


@contextmanager
def staged(file: Path) -> Iterator[BinaryIO]:
    """Open a file that replaces ``file`` once the block ends without an exception.

    Raises:
        OSError: if the file cannot be written.
    """
    beside = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("xb") as out:
            yield out
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
