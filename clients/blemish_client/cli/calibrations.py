# SPDX-License-Identifier: Apache-2.0
"""Calibrations in words: their rules, what a version judges by, and what a change would do."""

from rich.markup import escape

from blemish.v1 import model_pb2
from blemish.v1.model_pb2 import (
    Calibration,
    ClassMetrics,
    FlippedFrames,
    Metrics,
    ModelVersion,
    PreviewCalibrationResponse,
)
from blemish_client.cli.output import ABSENT, number, optional, share, table, when
from blemish_client.cli.session import Session
from blemish_client.names import short

_LABELS = (
    "threshold",
    "pixel threshold",
    "held-out good images above",
    "false rejects expected (90 % interval)",
)
"""Labels of ``_cells``."""
_SHOWN_FRAMES = 20
"""Number of kept frames in the text output. JSON has all of them."""


def threshold_rule(calibration: Calibration) -> str:
    """Return how the threshold was chosen."""
    match calibration.rule:
        case model_pb2.THRESHOLD_RULE_FIXED:
            return "fixed manually"
        case model_pb2.THRESHOLD_RULE_FALSE_REJECT_RATE:
            return f"for {share(calibration.target_false_reject_rate)} false rejects"
        case model_pb2.THRESHOLD_RULE_TRAINED:
            return f"as trained, for {share(calibration.target_false_reject_rate)} false rejects"
        case _:
            return ABSENT


def pixel_rule(calibration: Calibration) -> str:
    """Return how the pixel threshold follows the threshold."""
    if calibration.regions.HasField("pixel_threshold"):
        return "set by a person, so it does not move with the threshold"
    return "moves with the threshold: held-out maps exceed it as often as scores do the threshold"


def interval(calibration: Calibration) -> str:
    """Return the interval of the false-reject rate."""
    found = calibration.false_reject_rate_interval
    return f"{share(found.lower)} to {share(found.upper)}"


def judges_by(calibration: Calibration) -> str:
    """Return the threshold with its origin: threshold 9.906 (5 % false rejects asked for)."""
    threshold = f"threshold {number(calibration.threshold)}"
    match calibration.rule:
        case model_pb2.THRESHOLD_RULE_FIXED:
            return f"{threshold} (fixed by {calibration.author or 'a person'})"
        case model_pb2.THRESHOLD_RULE_FALSE_REJECT_RATE:
            return f"{threshold} ({_asked_for(calibration)} by {calibration.author or 'a person'})"
        case model_pb2.THRESHOLD_RULE_TRAINED:
            return f"{threshold} ({_asked_for(calibration)})"
        case _:
            return threshold


def ending(version: ModelVersion) -> str:
    """Return whether a version is in production, and by which threshold it judges."""
    if version.production:
        return f"{version.name} is in production and judges by {judges_by(version.calibration)}"
    return (
        f"{version.name} is ready, but not in production; it judges by {judges_by(version.calibration)}; "
        f"put it in production with: blemish models promote {short(version.name)}"
    )


def print_preview(session: Session, name: str, preview: PreviewCalibrationResponse) -> None:
    """Print what a change of the calibration would do."""
    before, after = preview.before, preview.after
    columns = ("", f"revision {before.revision}, in force", "after the change")
    rows = table(*columns, title=f"{name}, nothing was changed")
    for label, old_cell, new_cell in zip(_LABELS, _cells(before), _cells(after), strict=True):
        rows.add_row(label, old_cell, new_cell)
    if preview.HasField("metrics_before"):
        old, new = preview.metrics_before, preview.metrics_after
        for label, rate in (
            (f"{old.good_images} good test images rejected (95 %)", "false_reject_rate"),
            (f"{old.defective_images} defective test images detected (95 %)", "detection_rate"),
        ):
            rows.add_row(label, _rate(old, rate), _rate(new, rate))
        for one, other in zip(old.classes, new.classes, strict=True):
            label = f"  {escape(one.class_name)}, {one.images} images"
            rows.add_row(label, _rate(one, "detection_rate"), _rate(other, "detection_rate"))
    session.out.print(rows)
    if not preview.HasField("metrics_before"):
        session.out.print("no test images of the training to compare on", markup=False)
    _print_flipped(session, preview.flipped)
    if preview.concern:
        session.out.print(f"to be confirmed with --yes, because {preview.concern}", markup=False)


def _cells(calibration: Calibration) -> tuple[str, ...]:
    return (
        f"{number(calibration.threshold)}, {threshold_rule(calibration)}",
        number(calibration.pixel_threshold),
        f"{calibration.held_out_above} of {calibration.held_out_images}",
        f"{share(calibration.warranted_false_reject_rate)} ({interval(calibration)})",
    )


def _print_flipped(session: Session, flipped: FlippedFrames) -> None:
    if flipped.unavailable:
        session.out.print(f"kept frames were not compared: {flipped.unavailable}", markup=False)
        return
    count = flipped.to_anomalous + flipped.to_normal
    verdict = "normal" if flipped.to_normal else "anomalous"
    session.out.print(
        f"{count} of {flipped.kept} frames kept in the period would become {verdict}"
        if count
        else f"none of {flipped.kept} frames kept in the period would get another verdict",
        markup=False,
    )
    if not flipped.frames:
        return
    rows = table("time", "camera", "score", "label", "item", right=("score",))
    for frame in flipped.frames[:_SHOWN_FRAMES]:
        label = frame.label.lower().replace("_", "-") or ABSENT
        rows.add_row(
            when(frame.time), escape(frame.camera) or ABSENT, number(frame.score), label, short(frame.item)
        )
    session.out.print(rows)
    if count > len(rows.rows):
        session.out.print(f"and {count - len(rows.rows)} more", markup=False)


def _rate(metrics: Metrics | ClassMetrics, name: str) -> str:
    value = optional(metrics, name)
    if value is None or name not in metrics.intervals:
        return share(value)
    found = metrics.intervals[name]
    return f"{share(value)} ({100 * found.low:.1f} to {100 * found.high:.1f} %)"


def _asked_for(calibration: Calibration) -> str:
    return f"{100 * calibration.target_false_reject_rate:.3g} % false rejects asked for"
