# SPDX-License-Identifier: Apache-2.0
"""Messages of ModelService."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from blemish.v1 import model_pb2 as pb
from blemish_core.evaluation.metrics import Interval, Latency, Metrics, Spread
from blemish_core.evaluation.paired_scores import MetricDifference, PairedImage
from blemish_core.evaluation.stored_scores import StoredScores
from blemish_core.imaging.mask_summary import MaskSummary
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import CalibrationChange, Revision, ThresholdRule
from blemish_core.models.evaluations import ComparedVersion, StoredEvaluation, VersionComparison
from blemish_core.models.promotion import CalibrationChoice
from blemish_core.models.store import Model
from blemish_core.models.suspects import Suspect
from blemish_core.platform.errors import InvalidRequest
from blemish_core.platform.names import ModelRef, dataset_name, item_name, job_name
from blemish_core.runtimes.card import FrameLatency, RuntimeCard
from blemish_core.search.flips import DEFAULT_FLIPPED, DEFAULT_PERIOD, MAX_FLIPPED, Flips
from blemish_server.auth.access import Caller
from blemish_server.converters.enums import EnumMapping
from blemish_server.converters.regions import parse_region_settings, region_settings_to_proto
from blemish_server.converters.values import duration_to_proto, parse_duration, timestamp_to_proto
from blemish_server.scoring.shadow import Agreement, ShadowComparison

_MAX_IMAGES = 1000
_MAX_CLASSES = 1000
_SCORES = 8192
"""Most scores in a message."""

RULES: EnumMapping[ThresholdRule, pb.ThresholdRule.ValueType] = EnumMapping(
    {
        ThresholdRule.TRAINED: pb.THRESHOLD_RULE_TRAINED,
        ThresholdRule.FALSE_REJECT_RATE: pb.THRESHOLD_RULE_FALSE_REJECT_RATE,
        ThresholdRule.FIXED: pb.THRESHOLD_RULE_FIXED,
    }
)


CHOICES: EnumMapping[CalibrationChoice, pb.CalibrationChoice.ValueType] = EnumMapping(
    {
        CalibrationChoice.UNSPECIFIED: pb.CALIBRATION_CHOICE_UNSPECIFIED,
        CalibrationChoice.OWN: pb.CALIBRATION_CHOICE_OWN,
        CalibrationChoice.KEEP_TARGET: pb.CALIBRATION_CHOICE_KEEP_TARGET,
    }
)


def parse_calibration_change(request: pb.UpdateCalibrationRequest, caller: Caller) -> CalibrationChange:
    """Return the change of calibration that ``caller`` requests.

    The author of the change is the caller; an author named in the request is put before it.

    Raises:
        InvalidRequest: if the request sets neither a rule nor regions, or a setting is out of range.
    """
    rule: ThresholdRule | None
    revision: int | None = None
    match request.WhichOneof("rule"):
        case "target_false_reject_rate":
            rule, value = ThresholdRule.FALSE_REJECT_RATE, request.target_false_reject_rate
        case "threshold":
            rule, value = ThresholdRule.FIXED, request.threshold
        case "trained":
            rule, value = ThresholdRule.TRAINED, 0.0
        case "revision":
            rule, value, revision = None, 0.0, request.revision
        case _ if request.HasField("regions"):
            rule, value = None, 0.0
        case _:
            raise InvalidRequest(
                "the request contains no change; set target_false_reject_rate, threshold, trained, "
                "revision or regions",
                field="rule",
            )
    regions = parse_region_settings(request.regions) if request.HasField("regions") else None
    author = author_of(request.author, caller)
    return CalibrationChange(rule, author, value, request.comment, regions, revision)


def author_of(given: str, caller: Caller) -> str:
    """Return the author of a change: the caller, after the author that the request names."""
    if not caller.name or given == caller.name:
        return given
    return f"{given} ({caller.name})" if given else caller.name


def parse_preview(
    request: pb.PreviewCalibrationRequest, caller: Caller
) -> tuple[CalibrationChange, timedelta, int]:
    """Return the change to preview, the period of the kept frames, and the most frames to return.

    Raises:
        InvalidRequest: if the change or the period is not valid, or there are to be too many frames.
    """
    change = pb.UpdateCalibrationRequest()
    change.CopyFrom(request.change)
    change.author = change.author or caller.name or "preview"
    period = DEFAULT_PERIOD
    if request.HasField("period"):
        period = timedelta(seconds=parse_duration(request.period, "period"))
        if period < timedelta(0):
            raise InvalidRequest(f"period is {period.total_seconds():g} s; use 0 or more", field="period")
    if not 0 <= request.max_frames <= MAX_FLIPPED:
        raise InvalidRequest(
            f"max_frames is {request.max_frames}; use 0 to {MAX_FLIPPED}", field="max_frames"
        )
    return parse_calibration_change(change, caller), period, request.max_frames or DEFAULT_FLIPPED


def flipped_to_proto(flips: Flips) -> pb.FlippedFrames:
    counted = {"to_anomalous" if flips.to_anomalous else "to_normal": flips.count}
    return pb.FlippedFrames(
        kept=flips.kept,
        frames=[
            pb.FlippedFrame(
                item=item_name(item.id),
                time=timestamp_to_proto(item.time),
                camera=item.camera,
                score=item.score,
                anomalous=flips.to_anomalous,
                label=str(item.label),
            )
            for item in flips.items
        ],
        unavailable=flips.unavailable,
        **counted,
    )


def parse_expected_revision(request: pb.UpdateCalibrationRequest) -> int | None:
    """Return the revision that must be the current one, None if any may be.

    Raises:
        InvalidRequest: if the number is negative.
    """
    if request.expected_revision < 0:
        raise InvalidRequest(
            f"expected_revision is {request.expected_revision}; revisions count from 1, and 0 accepts any",
            field="expected_revision",
        )
    return request.expected_revision or None


def model_to_proto(
    model: Model, current: Sequence[Revision], metrics: Sequence[Metrics | None]
) -> pb.Model:
    """Describe a model with the current calibration of each of its versions, and the metrics at it."""
    return pb.Model(
        name=str(ModelRef(model.id)),
        production=str(ModelRef(model.id, model.production)) if model.production else "",
        versions=[
            model_version_to_proto(
                manifest,
                revision,
                of_version,
                production=manifest.version == model.production,
                shadow=manifest.version == model.shadow,
            )
            for manifest, revision, of_version in zip(model.versions, current, metrics, strict=True)
        ],
    )


def model_version_to_proto(
    manifest: Manifest,
    current: Revision,
    metrics: Metrics | None,
    *,
    production: bool,
    shadow: bool,
    history: Sequence[Revision] = (),
) -> pb.ModelVersion:
    """Describe a version with its current calibration and the metrics at it."""
    return pb.ModelVersion(
        name=manifest.name,
        detector=manifest.detector,
        category=manifest.category,
        dataset=dataset_name(manifest.dataset),
        dataset_snapshot=manifest.dataset_snapshot,
        create_time=timestamp_to_proto(manifest.created),
        job=job_name(manifest.job),
        seed=manifest.seed,
        production=production,
        shadow=shadow,
        settings={name: str(value) for name, value in manifest.settings.items()},
        split=pb.Split(
            learned=manifest.split.learned,
            held_out=manifest.split.held_out,
            method=manifest.split.method,
            skipped=manifest.split.skipped,
        ),
        calibration=calibration_to_proto(current, metrics),
        metrics=metrics_to_proto(metrics) if metrics else None,
        libraries=manifest.libraries,
        training=manifest.training,
        size_bytes=manifest.size_bytes,
        calibration_history=[calibration_to_proto(revision, metrics) for revision in history],
        white_level=(manifest.white_level.level or 0) if manifest.white_level else 0,
        white_level_given=manifest.white_level.given if manifest.white_level else False,
        mask=mask_to_proto(manifest.mask) if manifest.mask else None,
        runtimes=[_runtime(name, card) for name, card in sorted(manifest.runtimes.items())],
        latencies=map(_frame_latency, manifest.latencies),
    )


def mask_to_proto(mask: MaskSummary) -> pb.FrameMask:
    message = pb.FrameMask(
        sha256=mask.sha256, width=mask.width, height=mask.height, ignored_share=mask.ignored_share
    )
    if mask.reference is not None:
        message.alignment.reference = mask.reference
        message.alignment.SetInParent()
    return message


def calibration_to_proto(revision: Revision, metrics: Metrics | None) -> pb.Calibration:
    calibration = revision.calibration
    lower, upper = calibration.false_reject_rate_interval
    is_fixed = revision.rule is ThresholdRule.FIXED
    message = pb.Calibration(
        threshold=calibration.threshold,
        target_false_reject_rate=0.0 if is_fixed else calibration.target_false_reject_rate,
        warranted_false_reject_rate=calibration.warranted_false_reject_rate,
        held_out_images=len(calibration.scores),
        best_f1_threshold=metrics.best_f1_threshold if metrics else None,
        revision=revision.number,
        author=revision.author,
        comment=revision.comment,
        rule=RULES.to_proto(revision.rule),
        pixel_threshold=calibration.pixel_threshold,
        held_out_above=calibration.held_out_above,
        false_reject_rate_interval=pb.RateInterval(lower=lower, upper=upper),
        regions=region_settings_to_proto(calibration.regions),
    )
    message.update_time.FromDatetime(revision.updated)
    return message


def metrics_to_proto(metrics: Metrics) -> pb.Metrics:
    return pb.Metrics(
        dataset=dataset_name(metrics.dataset),
        dataset_snapshot=metrics.dataset_snapshot,
        good_images=metrics.good_images,
        defective_images=metrics.defective_images,
        skipped_images=metrics.skipped_images,
        unmasked_images=metrics.unmasked_images,
        copied_images=metrics.copied_images,
        image_auroc=metrics.image_auroc,
        fpr_at_95_tpr=metrics.fpr_at_95_tpr,
        f1=metrics.f1,
        best_f1=metrics.best_f1,
        best_f1_threshold=metrics.best_f1_threshold,
        pixel_auroc=metrics.pixel_auroc,
        aupro=metrics.aupro,
        region_area_ratio=metrics.region_area_ratio,
        region_iou=metrics.region_iou,
        peak_on_defect_rate=metrics.peak_on_defect_rate,
        threshold=metrics.threshold,
        regions_threshold=metrics.regions_threshold,
        regions_pixel_threshold=metrics.regions_pixel_threshold,
        false_reject_rate=metrics.false_reject_rate,
        detection_rate=metrics.detection_rate,
        intervals=_intervals(metrics.intervals),
        classes=[
            pb.ClassMetrics(
                class_name=name,
                images=metrics_of_class.images,
                image_auroc=metrics_of_class.image_auroc,
                fpr_at_95_tpr=metrics_of_class.fpr_at_95_tpr,
                detection_rate=metrics_of_class.detection_rate,
                pixel_auroc=metrics_of_class.pixel_auroc,
                aupro=metrics_of_class.aupro,
                region_area_ratio=metrics_of_class.region_area_ratio,
                region_iou=metrics_of_class.region_iou,
                peak_on_defect_rate=metrics_of_class.peak_on_defect_rate,
                intervals=_intervals(metrics_of_class.intervals),
            )
            for name, metrics_of_class in metrics.classes.items()
        ],
        latency=_latency(metrics.latency) if metrics.latency else None,
    )


def shadow_comparison_to_proto(comparison: ShadowComparison) -> pb.ShadowComparison:
    return pb.ShadowComparison(
        production=str(comparison.production),
        begin_time=timestamp_to_proto(comparison.began),
        both_normal=comparison.agreements[Agreement.BOTH_NORMAL],
        both_anomalous=comparison.agreements[Agreement.BOTH_ANOMALOUS],
        only_shadow=comparison.agreements[Agreement.ONLY_SHADOW],
        only_production=comparison.agreements[Agreement.ONLY_PRODUCTION],
        failed=comparison.failed,
        disagreements=[
            pb.ShadowDisagreement(
                time=timestamp_to_proto(each.time),
                camera=each.camera,
                item=each.item,
                production_score=each.production_score,
                production_threshold=each.production_threshold,
                shadow_score=each.shadow_score,
                shadow_threshold=each.shadow_threshold,
            )
            for each in comparison.disagreements
        ],
    )


def evaluation_to_proto(evaluation: StoredEvaluation) -> pb.ModelEvaluation:
    return pb.ModelEvaluation(
        job=job_name(evaluation.job),
        time=timestamp_to_proto(evaluation.time),
        metrics=metrics_to_proto(evaluation.metrics),
    )


def comparison_to_proto(comparison: VersionComparison) -> pb.CompareModelsResponse:
    paired = comparison.paired
    lists = {
        f"{verb}_only_by_{name}": [
            _compared_image(image) for image in paired.only_above(number, good=good)[:_MAX_IMAGES]
        ]
        for verb, good in (("found", False), ("rejected", True))
        for number, name in enumerate(("first", "second"))
    }
    return pb.CompareModelsResponse(
        first=_compared_model(comparison.first),
        second=_compared_model(comparison.second),
        dataset=dataset_name(comparison.dataset),
        good_images=paired.count(good=True),
        defective_images=paired.count(good=False),
        left_out=paired.left_out,
        metrics=[_metric_comparison(each) for each in paired.differences()],
        classes=[
            pb.ClassComparison(
                class_name=each.class_name, images=each.images, detection=_metric_comparison(each.detection)
            )
            for each in paired.classes()[:_MAX_CLASSES]
        ],
        pixel_metrics=[_metric_comparison(each) for each in comparison.pixel_metrics()],
        **lists,
    )


def _metric_comparison(metric: MetricDifference) -> pb.MetricComparison:
    return pb.MetricComparison(
        name=metric.name,
        first=metric.first.value or 0.0,
        first_interval=_interval(metric.first.interval),
        second=metric.second.value or 0.0,
        second_interval=_interval(metric.second.interval),
        difference=metric.difference.value or 0.0,
        difference_interval=_interval(metric.difference.interval),
        p_value=metric.p_value,
    )


def scores_to_proto(
    held_out: Sequence[float], tested: StoredScores | None
) -> Iterator[pb.ListScoresResponse]:
    """Yield the scores of held-out images, then those of test images by class, each in ascending order."""
    for start in range(0, len(held_out), _SCORES):
        yield pb.ListScoresResponse(held_out=True, scores=held_out[start : start + _SCORES])
    for name, scores in (tested.by_class if tested else {}).items():
        ascending = sorted(scores)
        for start in range(0, len(ascending), _SCORES):
            yield pb.ListScoresResponse(class_name=name, scores=ascending[start : start + _SCORES])


def _compared_model(version: ComparedVersion) -> pb.ComparedModel:
    return pb.ComparedModel(
        name=version.manifest.name,
        evaluation=job_name(version.job) if version.job else "",
        dataset_snapshot=version.metrics.dataset_snapshot,
        threshold=version.threshold,
    )


def _compared_image(image: PairedImage) -> pb.ComparedImage:
    first, second = image.scores
    return pb.ComparedImage(
        path=image.path,
        original_path=image.original,
        class_name=image.class_name,
        first_score=first,
        second_score=second,
    )


def _interval(interval: Interval | None) -> pb.Interval | None:
    return None if interval is None else pb.Interval(low=interval.low, high=interval.high)


def suspects_to_proto(
    manifest: Manifest, threshold: float, suspects: Sequence[Suspect]
) -> pb.ListSuspectsResponse:
    return pb.ListSuspectsResponse(
        model_version=manifest.name,
        dataset=dataset_name(manifest.dataset),
        threshold=threshold,
        suspects=[
            pb.Suspect(
                path=each.image.path,
                original_path=each.image.original,
                held_out=each.image.held_out,
                score=each.score,
                rank=each.rank,
                count=each.count,
                next_score=each.next_score,
                stands_out=each.stands_out,
                threshold_without=each.threshold_without,
            )
            for each in suspects
        ],
    )


def _runtime(name: str, card: RuntimeCard) -> pb.Runtime:
    message = pb.Runtime(name=name, published=card.file is not None, refusal=card.refusal)
    if card.parity:
        message.parity.CopyFrom(pb.Parity(**card.parity.model_dump()))
    if card.quantization:
        message.quantization.CopyFrom(pb.Quantization(**card.quantization.model_dump()))
    return message


def _intervals(intervals: Mapping[str, Interval]) -> dict[str, pb.Interval]:
    return {name: pb.Interval(low=interval.low, high=interval.high) for name, interval in intervals.items()}


def _frame_latency(latency: FrameLatency) -> pb.FrameLatency:
    return pb.FrameLatency(
        runtime=latency.runtime,
        device=latency.device,
        processor=latency.processor,
        threads=latency.threads,
        median=duration_to_proto(latency.median_s),
        frames=latency.frames,
        width=latency.width,
        height=latency.height,
    )


def _latency(latency: Latency) -> pb.Latency:
    return pb.Latency(
        runtime=latency.runtime,
        device=latency.device,
        batch_size=latency.batch_size,
        decode=_quantiles(latency.decode),
        prepare=_quantiles(latency.prepare),
        inference=_quantiles(latency.inference),
    )


def _quantiles(spread: Spread) -> pb.TimeQuantiles:
    p50, p95, p99 = (duration_to_proto(ms / 1000) for ms in (spread.p50_ms, spread.p95_ms, spread.p99_ms))
    return pb.TimeQuantiles(p50=p50, p95=p95, p99=p99)
