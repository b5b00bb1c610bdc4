# SPDX-License-Identifier: Apache-2.0
"""Core objects as messages of the contract, and requests as core objects."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from blemish.v1 import access_pb2, dataset_pb2, image_pb2, inspection_pb2, job_pb2, model_pb2, search_pb2
from blemish_core.calibration import DEFAULT_FALSE_REJECT_RATE
from blemish_core.datasets import Dataset, IndexEntry
from blemish_core.evaluation.metrics import Interval, Latency, Metrics, Spread
from blemish_core.imaging.image_input import ImageInput, RawLayout, Region
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
from blemish_core.jobs.worker_registry import Worker
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import Revision
from blemish_core.models.store import Model
from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.names import ModelRef, dataset_id, dataset_name, item_name, job_name
from blemish_core.runtimes.card import RuntimeCard
from blemish_core.search.item import Item, Label
from blemish_core.search.query import Similar
from blemish_server.auth.access import Role
from blemish_server.converters.calibrations import calibration
from blemish_server.scoring.batcher import Priority
from blemish_server.scoring.scorer import Inspected
from blemish_server.scoring.shadow import Comparison, Outcome
from blemish_server.search.region_search import Placed

NORMAL, ANOMALOUS = image_pb2.VERDICT_NORMAL, image_pb2.VERDICT_ANOMALOUS

JOB_PRIORITIES: Mapping[JobPriority, job_pb2.JobPriority.ValueType] = {
    JobPriority.HIGH: job_pb2.JOB_PRIORITY_HIGH,
    JobPriority.NORMAL: job_pb2.JOB_PRIORITY_NORMAL,
    JobPriority.LOW: job_pb2.JOB_PRIORITY_LOW,
}
_JOB_PRIORITY_OF_MESSAGE = {message: priority for priority, message in JOB_PRIORITIES.items()}
STATES: Mapping[JobState, job_pb2.JobState.ValueType] = {
    JobState.QUEUED: job_pb2.JOB_STATE_QUEUED,
    JobState.RUNNING: job_pb2.JOB_STATE_RUNNING,
    JobState.CANCELLING: job_pb2.JOB_STATE_CANCELLING,
    JobState.SUCCEEDED: job_pb2.JOB_STATE_SUCCEEDED,
    JobState.FAILED: job_pb2.JOB_STATE_FAILED,
    JobState.CANCELLED: job_pb2.JOB_STATE_CANCELLED,
}
ENDED = frozenset(message for state, message in STATES.items() if state.ended)

_PRIORITIES: Mapping[inspection_pb2.Priority.ValueType, Priority] = {
    inspection_pb2.PRIORITY_LINE_STOP: Priority.LINE_STOP,
    inspection_pb2.PRIORITY_AUDIT: Priority.AUDIT,
    inspection_pb2.PRIORITY_BACKFILL: Priority.BACKFILL,
}
URGENCIES = {priority: message for message, priority in _PRIORITIES.items()}


def picture(image: image_pb2.Image, field: str) -> ImageInput:
    """Return an image as it came; what it holds is looked at where it is decoded.

    Raises:
        InvalidRequest: if there is none.
    """
    region = None
    if image.HasField("region"):
        part = image.region
        region = Region(part.left, part.top, part.width, part.height)
    if image.WhichOneof("content") == "raw":
        raw = image.raw
        layout = RawLayout(raw.pixel_format, raw.width, raw.height, raw.stride)
        return ImageInput(raw.data, layout, region)
    if encoded := image.encoded:
        return ImageInput(encoded, None, region)
    raise InvalidRequest(
        f"{field}.encoded is empty; send a JPEG, PNG, BMP, TIFF or WebP, or {field}.raw", field=field
    )


def priority(asked: inspection_pb2.Priority.ValueType, field: str) -> Priority | None:
    """Return whose turn it is first, None if nothing is asked for.

    Raises:
        InvalidRequest: if it is none that this server knows.
    """
    if not asked:
        return None
    if asked not in _PRIORITIES:
        raise InvalidRequest(f"{field} is {asked}, but must be LINE_STOP, AUDIT or BACKFILL", field=field)
    return _PRIORITIES[asked]


def store(asked: inspection_pb2.Store.ValueType, field: str) -> Callable[[Inspected], bool]:
    """Return which inspected images are to be kept.

    Raises:
        InvalidRequest: if it is none that this server knows.
    """
    match asked:
        case inspection_pb2.STORE_UNSPECIFIED | inspection_pb2.STORE_NONE:
            return lambda done: False
        case inspection_pb2.STORE_ANOMALOUS:
            return lambda done: done.calibration.calibration.anomalous(done.outcome.score)
        case inspection_pb2.STORE_ALL:
            return lambda done: True
    raise InvalidRequest(f"{field} is {asked}, but must be NONE, ANOMALOUS or ALL", field=field)


def moment(message: inspection_pb2.ScoreRequest | inspection_pb2.Frame, field: str) -> datetime | None:
    """Return when a picture was taken, if that is told.

    Raises:
        InvalidRequest: if that is no time.
    """
    if not message.HasField("capture_time"):
        return None
    try:
        return message.capture_time.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(
            f"{field} must lie between the years 1 and 9999, with nanos of 0 to 999,999,999", field=field
        ) from error


def inspection(done: Inspected, outputs: inspection_pb2.Outputs) -> inspection_pb2.Inspection:
    outcome, judge = done.outcome, done.calibration.calibration
    message = inspection_pb2.Inspection(
        score=outcome.score,
        p_value=judge.p_value(outcome.score),
        verdict=_verdict(judge.anomalous(outcome.score)),
        threshold=judge.threshold,
        model_version=done.manifest.name,
        calibration_revision=done.calibration.number,
        runtime=done.runtime,
        timings=inspection_pb2.Timings(
            decode=_duration(done.decode_s),
            queue=_duration(done.queue_s),
            inference=_duration(done.inference_s),
        ),
    )
    if outputs.anomaly_map:
        rows, columns = outcome.anomaly_map.shape
        message.anomaly_map.CopyFrom(
            image_pb2.AnomalyMap(
                width=columns,
                height=rows,
                values=np.ascontiguousarray(outcome.anomaly_map, dtype="<f4").tobytes(),
                threshold=judge.pixel_threshold,
            )
        )
    if outputs.embedding:
        message.embedding.extend(outcome.embedding.tolist())
    return message


def hit(similar: Similar, thumbnail: bytes) -> search_pb2.Hit:
    message = item(similar.item)
    message.similarity = similar.similarity
    message.group = similar.group
    message.thumbnail = thumbnail
    return message


def placed(of: Placed, thumbnail: bytes) -> search_pb2.Hit:
    message = hit(of.similar, thumbnail)
    if of.match is not None:
        box, heat, (height, width) = of.match.box, of.match.heat, of.shape
        message.match.CopyFrom(
            search_pb2.Match(
                box=image_pb2.Region(left=box.left, top=box.top, width=box.width, height=box.height),
                similarity=of.match.similarity,
                heat=search_pb2.HeatMap(
                    width=heat.shape[1],
                    height=heat.shape[0],
                    values=np.rint(255 * heat).astype(np.uint8).tobytes(),
                ),
                width=width,
                height=height,
            )
        )
    return message


def item(indexed: Item) -> search_pb2.Hit:
    return search_pb2.Hit(
        item=item_name(indexed.id),
        dataset=dataset_name(indexed.dataset) if indexed.dataset else "",
        category=indexed.category,
        path=indexed.path,
        class_name=indexed.class_name,
        score=indexed.score,
        p_value=indexed.p_value,
        verdict=_verdict(indexed.anomalous),
        camera=indexed.camera,
        time=_timestamp(indexed.time),
        label=_LABELS[indexed.label] if indexed.label else search_pb2.LABEL_UNSPECIFIED,
        label_class=indexed.label_class,
    )


ROLES = {
    Role.CAMERA: access_pb2.ROLE_CAMERA,
    Role.SERVICE: access_pb2.ROLE_SERVICE,
    Role.OPERATOR: access_pb2.ROLE_OPERATOR,
}

_LABELS = {
    Label.CONFIRMED: search_pb2.LABEL_CONFIRMED,
    Label.FALSE_ALARM: search_pb2.LABEL_FALSE_ALARM,
    Label.GOOD: search_pb2.LABEL_GOOD,
    Label.NONE: search_pb2.LABEL_NONE,
}


def label(asked: search_pb2.Label.ValueType, field: str) -> Label:
    """Read a label.

    Raises:
        InvalidRequest: if it is none that this server knows.
    """
    for known, spelled in _LABELS.items():
        if spelled == asked:
            return known
    raise InvalidRequest(
        f"{field} is {asked}, but must be CONFIRMED, FALSE_ALARM, GOOD or NONE", field=field
    )


def dataset(stored: Dataset) -> dataset_pb2.Dataset:
    return dataset_pb2.Dataset(
        name=dataset_name(stored.id),
        category=stored.category,
        create_time=_timestamp(stored.create_time),
        train_images=stored.train_images,
        test_images=[
            dataset_pb2.ClassCount(class_name=name, images=count)
            for name, count in sorted(stored.test_images.items())
        ],
        masks=stored.masks,
        size_bytes=stored.size_bytes,
        snapshot=stored.snapshot,
    )


def dataset_image(entry: IndexEntry) -> dataset_pb2.DatasetImage:
    return dataset_pb2.DatasetImage(
        path=entry.path,
        size_bytes=entry.size_bytes,
        sha256=bytes.fromhex(entry.sha256),
        width=entry.width,
        height=entry.height,
    )


def metrics(measured: Metrics) -> model_pb2.Metrics:
    return model_pb2.Metrics(
        dataset=dataset_name(measured.dataset),
        dataset_snapshot=measured.dataset_snapshot,
        good_images=measured.good_images,
        defective_images=measured.defective_images,
        skipped_images=measured.skipped_images,
        unmasked_images=measured.unmasked_images,
        image_auroc=measured.image_auroc,
        fpr_at_95_tpr=measured.fpr_at_95_tpr,
        f1=measured.f1,
        best_f1=measured.best_f1,
        best_f1_threshold=measured.best_f1_threshold,
        pixel_auroc=measured.pixel_auroc,
        aupro=measured.aupro,
        false_reject_rate=measured.false_reject_rate,
        detection_rate=measured.detection_rate,
        intervals=_intervals(measured.intervals),
        classes=[
            model_pb2.ClassMetrics(
                class_name=name,
                images=of.images,
                image_auroc=of.image_auroc,
                fpr_at_95_tpr=of.fpr_at_95_tpr,
                detection_rate=of.detection_rate,
                pixel_auroc=of.pixel_auroc,
                aupro=of.aupro,
                intervals=_intervals(of.intervals),
            )
            for name, of in measured.classes.items()
        ],
        latency=_latency(measured.latency) if measured.latency else None,
    )


def model(stored: Model, in_force: Sequence[Revision]) -> model_pb2.Model:
    """Describe a model by its versions and the calibration of each."""
    return model_pb2.Model(
        name=str(ModelRef(stored.id)),
        production=str(ModelRef(stored.id, stored.production)) if stored.production else "",
        versions=[
            model_version(
                manifest,
                revision,
                production=manifest.version == stored.production,
                shadow=manifest.version == stored.shadow,
            )
            for manifest, revision in zip(stored.versions, in_force, strict=True)
        ],
    )


def comparison(of: Comparison) -> model_pb2.ShadowComparison:
    return model_pb2.ShadowComparison(
        production=str(of.production),
        begin_time=_timestamp(of.began),
        both_normal=of.outcomes[Outcome.BOTH_NORMAL],
        both_anomalous=of.outcomes[Outcome.BOTH_ANOMALOUS],
        only_shadow=of.outcomes[Outcome.ONLY_SHADOW],
        only_production=of.outcomes[Outcome.ONLY_PRODUCTION],
        failed=of.failed,
        disagreements=[
            model_pb2.ShadowDisagreement(
                time=_timestamp(each.time),
                camera=each.camera,
                item=each.item,
                production_score=each.production_score,
                production_threshold=each.production_threshold,
                shadow_score=each.shadow_score,
                shadow_threshold=each.shadow_threshold,
            )
            for each in of.disagreements
        ],
    )


def model_version(
    manifest: Manifest,
    in_force: Revision,
    *,
    production: bool,
    shadow: bool,
    history: Sequence[Revision] = (),
) -> model_pb2.ModelVersion:
    measured = manifest.metrics
    return model_pb2.ModelVersion(
        name=manifest.name,
        detector=manifest.detector,
        category=manifest.category,
        dataset=dataset_name(manifest.dataset),
        dataset_snapshot=manifest.dataset_snapshot,
        create_time=_timestamp(manifest.created),
        job=job_name(manifest.job),
        seed=manifest.seed,
        production=production,
        shadow=shadow,
        settings={name: str(value) for name, value in manifest.settings.items()},
        split=model_pb2.Split(
            learned=manifest.split.learned,
            held_out=manifest.split.held_out,
            method=manifest.split.method,
            skipped=manifest.split.skipped,
        ),
        calibration=calibration(in_force, measured),
        metrics=metrics(measured) if measured else None,
        libraries=manifest.libraries,
        training=manifest.training,
        size_bytes=manifest.size_bytes,
        calibration_history=[calibration(revision, measured) for revision in history],
        runtimes=[_runtime(name, card) for name, card in sorted(manifest.runtimes.items())],
    )


def _runtime(name: str, card: RuntimeCard) -> model_pb2.Runtime:
    message = model_pb2.Runtime(name=name, published=card.file is not None, refusal=card.refusal)
    if card.parity:
        message.parity.CopyFrom(model_pb2.Parity(**card.parity.model_dump()))
    if card.quantization:
        message.quantization.CopyFrom(model_pb2.Quantization(**card.quantization.model_dump()))
    return message


def spec(request: job_pb2.CreateJobRequest) -> Spec:
    """Return what a request asks for, with names read and not yet looked up.

    Raises:
        InvalidRequest: if it asks for nothing, or a name is malformed.
    """
    match request.WhichOneof("work"):
        case "train":
            return _train(request.train)
        case "embed":
            ref = ModelRef.parse(request.embed.model, "embed.model")
            if not request.embed.kept_frames:
                return EmbedSpec(model=str(ref), dataset=dataset_id(request.embed.dataset, "embed.dataset"))
            if request.embed.dataset:
                raise InvalidRequest(
                    "a dataset is embedded or kept frames, not both", field="embed.dataset"
                )
            return EmbedSpec(model=str(ref), kept_frames=True)
        case "evaluate":
            ref = ModelRef.parse(request.evaluate.model, "evaluate.model")
            return EvaluateSpec(
                model=str(ref), dataset=dataset_id(request.evaluate.dataset, "evaluate.dataset")
            )
        case _:
            raise InvalidRequest("the request asks for no work: set train, embed or evaluate", field="work")


def job_priority(asked: job_pb2.JobPriority.ValueType) -> JobPriority:
    """Return the priority that is asked for.

    Raises:
        InvalidRequest: if there is no such priority.
    """
    if asked == job_pb2.JOB_PRIORITY_UNSPECIFIED:
        return JobPriority.NORMAL
    if asked not in _JOB_PRIORITY_OF_MESSAGE:
        raise InvalidRequest(f"{asked} is no job priority", field="priority")
    return _JOB_PRIORITY_OF_MESSAGE[asked]


def job_limits(asked: job_pb2.JobLimits) -> Limits:
    """Return the limits that are asked for.

    Raises:
        InvalidRequest: if nothing can be done within them.
    """
    seconds = asked.max_run_time.seconds + asked.max_run_time.nanos / 1e9
    if asked.HasField("max_run_time") and not seconds > 0:
        raise InvalidRequest("max_run_time has to be above 0", field="limits.max_run_time")
    if asked.max_memory_bytes < 0:
        raise InvalidRequest("max_memory_bytes cannot be negative", field="limits.max_memory_bytes")
    return Limits(max_seconds=seconds, max_bytes=asked.max_memory_bytes)


def line(line: LogLine) -> job_pb2.LogLine:
    return job_pb2.LogLine(id=line.id, text=line.text)


def worker(told: Worker) -> job_pb2.Worker:
    return job_pb2.Worker(
        name=told.name,
        version=told.version,
        queues=told.queues,
        devices=told.devices,
        jobs=map(job_name, told.jobs),
        start_time=_timestamp(told.started),
        canary_time=_timestamp(told.canary),
    )


def job(record: Job) -> job_pb2.Job:
    estimate = record.progress_estimate
    weights = estimate.weights if estimate else {}
    message = job_pb2.Job(
        name=job_name(record.id),
        state=STATES[record.state],
        phases=[_phase(phase, weights.get(phase.name, 0.0)) for phase in record.phases],
        create_time=_timestamp(record.created),
        start_time=_timestamp(record.started),
        end_time=_timestamp(record.ended),
        attempt=record.attempt,
        revision=record.revision,
        error=record.error,
        warnings=record.warnings,
        history=map(_event, record.history),
        priority=JOB_PRIORITIES[record.priority],
    )
    if estimate:
        message.fraction_done = estimate.done
        message.remaining.CopyFrom(_duration(estimate.remaining_s))
    if record.limits.max_seconds:
        message.limits.max_run_time.CopyFrom(_duration(record.limits.max_seconds))
    if record.limits.max_bytes:
        message.limits.max_memory_bytes = record.limits.max_bytes
    match record.spec:
        case TrainSpec() as train:
            message.train.CopyFrom(_train_message(train))
        case EmbedSpec() as embed:
            of = dataset_name(embed.dataset) if embed.dataset else ""
            message.embed.CopyFrom(
                job_pb2.Embed(model=embed.model, dataset=of, kept_frames=embed.kept_frames)
            )
        case EvaluateSpec() as evaluate:
            message.evaluate.CopyFrom(
                job_pb2.Evaluate(model=evaluate.model, dataset=dataset_name(evaluate.dataset))
            )
    if record.result:
        message.result.CopyFrom(
            job_pb2.JobResult(
                model_version=record.result.model_version,
                metrics=metrics(record.result.metrics) if record.result.metrics else None,
                indexed_images=record.result.indexed_images,
            )
        )
    return message


def _intervals(intervals: Mapping[str, Interval]) -> dict[str, model_pb2.Interval]:
    return {name: model_pb2.Interval(low=of.low, high=of.high) for name, of in intervals.items()}


def _latency(latency: Latency) -> model_pb2.Latency:
    return model_pb2.Latency(
        runtime=latency.runtime,
        device=latency.device,
        batch_size=latency.batch_size,
        decode=_quantiles(latency.decode),
        prepare=_quantiles(latency.prepare),
        inference=_quantiles(latency.inference),
    )


def _quantiles(spread: Spread) -> model_pb2.TimeQuantiles:
    p50, p95, p99 = (_duration(ms / 1000) for ms in (spread.p50_ms, spread.p95_ms, spread.p99_ms))
    return model_pb2.TimeQuantiles(p50=p50, p95=p95, p99=p99)


def _event(event: Event) -> job_pb2.JobEvent:
    return job_pb2.JobEvent(
        state=STATES[event.to],
        time=_timestamp(event.at),
        attempt=event.attempt,
        worker=event.worker,
        reason=event.why,
    )


def _phase(phase: Phase, weight: float) -> job_pb2.Phase:
    return job_pb2.Phase(
        name=phase.name,
        done=phase.done,
        total=phase.total,
        unit=phase.unit,
        remaining=None if phase.remaining_s is None else _duration(phase.remaining_s),
        rate=phase.rate,
        weight=weight,
    )


def _train(train: job_pb2.Train) -> TrainSpec:
    dataset = dataset_id(train.dataset, "train.dataset")
    spec = TrainSpec(
        dataset=dataset,
        model_id="",
        seed=train.seed,
        target_false_reject_rate=train.target_false_reject_rate or DEFAULT_FALSE_REJECT_RATE,
        promote=train.promote,
        false_alarms_of=_false_alarms_of(train),
        **_detector(train),
    )
    model_id = train.model_id or f"{dataset}-{spec.detector}"[:63]
    return spec.model_copy(update={"model_id": model_id})


def _false_alarms_of(train: job_pb2.Train) -> str:
    if not train.false_alarms_of:
        return ""
    return str(ModelRef.parse(train.false_alarms_of, "train.false_alarms_of"))


def _detector(train: job_pb2.Train) -> dict[str, Any]:
    """The settings of the detector asked for; 0 and "" are proto3's "not set"."""
    if train.WhichOneof("detector") == "efficientad":
        efficientad = train.efficientad
        limit = efficientad.max_duration if efficientad.HasField("max_duration") else None
        return {
            "efficientad": EfficientAdSpec(
                size=efficientad.size or None,
                input_size=efficientad.input_size or None,
                max_steps=efficientad.max_steps or None,
                max_seconds=limit.ToTimedelta().total_seconds() if limit is not None else None,
                start=efficientad.start or None,
                int8=efficientad.int8 if efficientad.HasField("int8") else None,
            )
        }
    patchcore = train.patchcore
    return {
        "patchcore": PatchCoreSpec(
            backbone=patchcore.backbone or None,
            input_size=patchcore.input_size or None,
            coreset_ratio=patchcore.coreset_ratio or None,
            neighbors=patchcore.neighbors or None,
            whitened=patchcore.whitened if patchcore.HasField("whitened") else None,
        )
    }


def _train_message(train: TrainSpec) -> job_pb2.Train:
    message = job_pb2.Train(
        dataset=dataset_name(train.dataset),
        model_id=train.model_id,
        seed=train.seed,
        target_false_reject_rate=train.target_false_reject_rate,
        promote=train.promote,
        false_alarms_of=train.false_alarms_of,
    )
    if train.efficientad is not None:
        settings = train.settings
        limit_s = settings.pop("max_seconds", None)
        message.efficientad.CopyFrom(job_pb2.EfficientAd(**settings, int8=train.int8))
        if limit_s is not None:
            message.efficientad.max_duration.CopyFrom(_duration(limit_s))
    else:
        message.patchcore.CopyFrom(job_pb2.PatchCore(**train.settings))
    return message


def _verdict(anomalous: bool) -> image_pb2.Verdict.ValueType:
    return ANOMALOUS if anomalous else NORMAL


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _duration(seconds: float) -> Duration:
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message
