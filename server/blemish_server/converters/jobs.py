# SPDX-License-Identifier: Apache-2.0
"""Messages of JobService."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from blemish.v1 import job_pb2 as pb
from blemish.v1 import model_pb2
from blemish.v1.model_pb2 import MaskPolygon, MaskPolygons
from blemish_core.calibration import DEFAULT_FALSE_REJECT_RATE
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.imaging.mask_drawing import MAX_POINTS, MaskDrawing, Polygon
from blemish_core.jobs.estimate import TrainingEstimate, WorkerSpeed
from blemish_core.jobs.record import (
    EfficientAdSpec,
    EmbedSpec,
    EvaluateSpec,
    Event,
    Job,
    JobPriority,
    JobState,
    Limits,
    PatchCoreSpec,
    Phase,
    Spec,
    TrainSpec,
)
from blemish_core.jobs.store import LogLine
from blemish_core.jobs.worker_registry import WorkerInfo
from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.names import ModelRef, dataset_id, dataset_name, job_name
from blemish_server.converters.enums import EnumMapping
from blemish_server.converters.models import CHOICES, mask_to_proto, metrics_to_proto
from blemish_server.converters.values import (
    check_count,
    duration_to_proto,
    parse_duration,
    timestamp_to_proto,
)

PRIORITIES: EnumMapping[JobPriority, pb.JobPriority.ValueType] = EnumMapping(
    {
        JobPriority.HIGH: pb.JOB_PRIORITY_HIGH,
        JobPriority.NORMAL: pb.JOB_PRIORITY_NORMAL,
        JobPriority.LOW: pb.JOB_PRIORITY_LOW,
    }
)
STATES: EnumMapping[JobState, pb.JobState.ValueType] = EnumMapping(
    {
        JobState.QUEUED: pb.JOB_STATE_QUEUED,
        JobState.RUNNING: pb.JOB_STATE_RUNNING,
        JobState.CANCELLING: pb.JOB_STATE_CANCELLING,
        JobState.SUCCEEDED: pb.JOB_STATE_SUCCEEDED,
        JobState.FAILED: pb.JOB_STATE_FAILED,
        JobState.CANCELLED: pb.JOB_STATE_CANCELLED,
    }
)
ENDED = frozenset(STATES.to_proto(state) for state in JobState if state.ended)


def parse_spec(request: pb.CreateJobRequest) -> Spec:
    """Return the work that a request describes; its names are parsed, not looked up.

    Raises:
        InvalidRequest: if no work is set, or a name is malformed.
    """
    match request.WhichOneof("work"):
        case "train":
            return parse_training(request.train)
        case "embed":
            return _parse_embed(request.embed)
        case "evaluate":
            ref = ModelRef.parse(request.evaluate.model, "evaluate.model")
            dataset = dataset_id(request.evaluate.dataset, "evaluate.dataset")
            return EvaluateSpec(model=str(ref), dataset=dataset)
        case _:
            raise InvalidRequest("the request contains no work; set train, embed or evaluate", field="work")


def parse_mask(train: pb.Train, limits: ImageLimits) -> FrameMask | None:
    """Return the mask of a training, None if it looks at all pixels.

    Raises:
        InvalidRequest: if the mask is not valid; the error names the part of it.
    """
    match train.mask.WhichOneof("content"):
        case "png":
            return FrameMask.from_png(train.mask.png, limits, "train.mask.png")
        case "polygons":
            return _parse_polygons(train.mask.polygons, limits)
        case _:
            if train.mask.HasField("alignment"):
                raise InvalidRequest(
                    "train.mask.alignment moves a mask, but train.mask is empty; set png or polygons",
                    field="train.mask.alignment",
                )
            if train.HasField("mask"):
                raise InvalidRequest("train.mask is empty; set png or polygons", field="train.mask")
            return None


def parse_reference(mask: model_pb2.FrameMask) -> str | None:
    """Return the requested reference, empty for the default, or None for a mask that does not move."""
    return mask.alignment.reference if mask.HasField("alignment") else None


def parse_priority(number: pb.JobPriority.ValueType) -> JobPriority:
    """Return a job's priority, NORMAL if unspecified.

    Raises:
        InvalidRequest: if the priority is unknown.
    """
    if number == pb.JOB_PRIORITY_UNSPECIFIED:
        return JobPriority.NORMAL
    return PRIORITIES.parse(number, "priority")


def parse_limits(limits: pb.JobLimits) -> Limits:
    """Return a job's limits.

    Raises:
        InvalidRequest: if a limit is negative or out of range, or the run time is zero.
    """
    seconds = parse_duration(limits.max_run_time, "limits.max_run_time")
    if limits.HasField("max_run_time") and not seconds > 0:
        raise InvalidRequest(
            f"max_run_time is {seconds:g} s; set it above 0, or leave it out", field="limits.max_run_time"
        )
    if limits.max_memory_bytes < 0:
        raise InvalidRequest(
            f"max_memory_bytes is {limits.max_memory_bytes}; set it above 0, or leave it out",
            field="limits.max_memory_bytes",
        )
    return Limits(max_seconds=seconds, max_bytes=limits.max_memory_bytes)


def parse_states(numbers: Sequence[pb.JobState.ValueType]) -> list[JobState]:
    """Return the job states that a listing is restricted to.

    Raises:
        InvalidRequest: if one is unknown, or there are more than the states that exist.
    """
    check_count(numbers, len(JobState), "states")
    return [STATES.parse(number, "states") for number in numbers]


def job_to_proto(job: Job) -> pb.Job:
    estimate = job.progress_estimate
    weights = estimate.weights if estimate else {}
    message = pb.Job(
        name=job_name(job.id),
        state=STATES.to_proto(job.state),
        phases=[_phase(phase, weights.get(phase.name, 0.0)) for phase in job.phases],
        create_time=timestamp_to_proto(job.created),
        start_time=timestamp_to_proto(job.started),
        end_time=timestamp_to_proto(job.ended),
        attempt=job.attempt,
        revision=job.revision,
        error=job.error,
        warnings=job.warnings,
        plan=job.plan,
        history=map(_event, job.history),
        priority=PRIORITIES.to_proto(job.priority),
    )
    if estimate:
        message.fraction_done = estimate.done
        message.remaining.CopyFrom(duration_to_proto(estimate.remaining_s))
    if job.limits.max_seconds:
        message.limits.max_run_time.CopyFrom(duration_to_proto(job.limits.max_seconds))
    if job.limits.max_bytes:
        message.limits.max_memory_bytes = job.limits.max_bytes
    match job.spec:
        case TrainSpec() as train:
            message.train.CopyFrom(_train(train))
        case EmbedSpec() as embed:
            dataset = dataset_name(embed.dataset) if embed.dataset else ""
            message.embed.CopyFrom(
                pb.Embed(model=embed.model, dataset=dataset, kept_frames=embed.kept_frames)
            )
        case EvaluateSpec() as evaluate:
            message.evaluate.CopyFrom(
                pb.Evaluate(model=evaluate.model, dataset=dataset_name(evaluate.dataset))
            )
    if job.result:
        message.result.CopyFrom(
            pb.JobResult(
                model_version=job.result.model_version,
                metrics=metrics_to_proto(job.result.metrics) if job.result.metrics else None,
                indexed_images=job.result.indexed_images,
            )
        )
    return message


def log_line_to_proto(line: LogLine) -> pb.LogLine:
    return pb.LogLine(id=line.id, text=line.text)


def estimate_to_proto(speed: WorkerSpeed, estimate: TrainingEstimate) -> pb.TrainingEstimate:
    return pb.TrainingEstimate(
        training=duration_to_proto(estimate.training_s),
        phases=[
            pb.EstimatedPhase(name=name, duration=duration_to_proto(seconds))
            for name, seconds in estimate.phases.items()
        ],
        frame=duration_to_proto(estimate.frame_s),
        frame_width=estimate.frame[1],
        frame_height=estimate.frame[0],
        input_width=estimate.input[1],
        input_height=estimate.input[0],
        bank_entries=estimate.bank_entries,
        worker=speed.worker,
        device=speed.rates.device,
        processor=speed.rates.processor,
    )


def worker_to_proto(worker: WorkerInfo) -> pb.Worker:
    return pb.Worker(
        name=worker.name,
        version=worker.version,
        queues=worker.queues,
        devices=worker.devices,
        jobs=map(job_name, worker.jobs),
        start_time=timestamp_to_proto(worker.started),
        canary_time=timestamp_to_proto(worker.canary),
    )


def _parse_embed(embed: pb.Embed) -> EmbedSpec:
    ref = ModelRef.parse(embed.model, "embed.model")
    if not embed.kept_frames:
        return EmbedSpec(model=str(ref), dataset=dataset_id(embed.dataset, "embed.dataset"))
    if embed.dataset:
        raise InvalidRequest(
            "embed sets both dataset and kept_frames; create one job for each", field="embed.dataset"
        )
    return EmbedSpec(model=str(ref), kept_frames=True)


def parse_training(train: pb.Train) -> TrainSpec:
    """Return the training that a message describes, without its mask.

    Raises:
        InvalidRequest: if a name is malformed.
    """
    dataset = dataset_id(train.dataset, "train.dataset")
    spec = TrainSpec(
        dataset=dataset,
        model_id="",
        seed=train.seed,
        target_false_reject_rate=train.target_false_reject_rate or DEFAULT_FALSE_REJECT_RATE,
        promote=train.promote,
        promoted_calibration=CHOICES.parse(train.promoted_calibration, "train.promoted_calibration"),
        false_alarms_of=_parse_false_alarms_of(train),
        **_parse_detector(train),
    )
    model_id = train.model_id or f"{dataset}-{spec.detector}"[:63]
    return spec.model_copy(update={"model_id": model_id})


def _parse_polygons(polygons: MaskPolygons, limits: ImageLimits) -> FrameMask:
    field = "train.mask.polygons"
    # No polygon has less than three points.
    drawn_points = 0
    for name in ("include", "ignore"):
        check_count(getattr(polygons, name), MAX_POINTS // 3, f"{field}.{name}")
        drawn_points += sum(len(each.points) for each in getattr(polygons, name))
    if drawn_points > MAX_POINTS:
        raise InvalidRequest(
            f"the polygons of the mask have {drawn_points} points; send 1 to {MAX_POINTS}, or a PNG",
            field=field,
        )
    drawn = MaskDrawing(
        polygons.width,
        polygons.height,
        [_points(each) for each in polygons.include],
        [_points(each) for each in polygons.ignore],
    )
    return FrameMask(drawn.rasterized(limits, field), field)


def _points(polygon: MaskPolygon) -> Polygon:
    return np.array([(point.x, point.y) for point in polygon.points], np.float64).reshape(-1, 2)


def _parse_false_alarms_of(train: pb.Train) -> str:
    if not train.false_alarms_of:
        return ""
    return str(ModelRef.parse(train.false_alarms_of, "train.false_alarms_of"))


def _parse_detector(train: pb.Train) -> dict[str, Any]:
    """Return the settings of the requested detector; proto3 has 0 and "" for settings that are not set."""
    if train.WhichOneof("detector") == "efficientad":
        efficientad = train.efficientad
        limit_s = None
        if efficientad.HasField("max_duration"):
            limit_s = parse_duration(efficientad.max_duration, "train.efficientad.max_duration")
        return {
            "efficientad": EfficientAdSpec(
                size=efficientad.size or None,
                input_size=efficientad.input_size or None,
                max_steps=efficientad.max_steps or None,
                max_seconds=limit_s,
                start=efficientad.start or None,
                int8=efficientad.int8 if efficientad.HasField("int8") else None,
            )
        }
    patchcore = train.patchcore
    return {
        "patchcore": PatchCoreSpec(
            backbone=patchcore.backbone or None,
            input_size=patchcore.input_size or None,
            smallest_defect=patchcore.smallest_defect or None,
            coreset_ratio=patchcore.coreset_ratio or None,
            max_entries=patchcore.max_entries or None,
            neighbors=patchcore.neighbors or None,
            whitened=patchcore.whitened if patchcore.HasField("whitened") else None,
            int8=patchcore.int8 if patchcore.HasField("int8") else None,
        )
    }


def _train(train: TrainSpec) -> pb.Train:
    message = pb.Train(
        dataset=dataset_name(train.dataset),
        model_id=train.model_id,
        seed=train.seed,
        target_false_reject_rate=train.target_false_reject_rate,
        promote=train.promote,
        promoted_calibration=CHOICES.to_proto(train.promoted_calibration),
        false_alarms_of=train.false_alarms_of,
        mask=mask_to_proto(train.mask) if train.mask else None,
    )
    if train.efficientad is not None:
        settings = train.settings
        limit_s = settings.pop("max_seconds", None)
        message.efficientad.CopyFrom(pb.EfficientAd(**settings, int8=train.int8))
        if limit_s is not None:
            message.efficientad.max_duration.CopyFrom(duration_to_proto(limit_s))
    else:
        message.patchcore.CopyFrom(pb.PatchCore(**train.settings, int8=train.int8))
    return message


def _event(event: Event) -> pb.JobEvent:
    return pb.JobEvent(
        state=STATES.to_proto(event.to),
        time=timestamp_to_proto(event.at),
        attempt=event.attempt,
        worker=event.worker,
        reason=event.why,
    )


def _phase(phase: Phase, weight: float) -> pb.Phase:
    return pb.Phase(
        name=phase.name,
        done=phase.done,
        total=phase.total,
        unit=phase.unit,
        remaining=None if phase.remaining_s is None else duration_to_proto(phase.remaining_s),
        rate=phase.rate,
        weight=weight,
    )
