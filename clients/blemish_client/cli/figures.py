# SPDX-License-Identifier: Apache-2.0
"""Metrics of a model version as tables of at most 80 columns."""

from google.protobuf.duration_pb2 import Duration
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from blemish.v1.model_pb2 import ClassMetrics, FrameLatency, Interval, Latency, Metrics
from blemish_client.cli.output import number, optional, share, table

_METRICS = (
    ("image AUROC", "image_auroc"),
    ("F1", "f1"),
    ("best F1 (uses labels; for comparison)", "best_f1"),
    ("good images rejected", "false_reject_rate"),
    ("defective images detected", "detection_rate"),
    ("good rejected at 95 % detected", "fpr_at_95_tpr"),
    ("pixel AUROC", "pixel_auroc"),
    ("AUPRO (to 0.3)", "aupro"),
    ("regions: overlap with masks (IoU)", "region_iou"),
    ("regions: area to that of masks", "region_area_ratio"),
    ("regions: first peak on the defect", "peak_on_defect_rate"),
)
_CLASS_METRICS = (
    ("image AUROC", "image_auroc"),
    ("FPR95", "fpr_at_95_tpr"),
    ("detected", "detection_rate"),
    ("pixel AUROC", "pixel_auroc"),
    ("AUPRO", "aupro"),
)
_AT_THRESHOLD = frozenset({"f1", "false_reject_rate", "detection_rate"})
_OF_REGIONS = frozenset({"region_iou", "region_area_ratio", "peak_on_defect_rate"})
_RATES = frozenset({"false_reject_rate", "detection_rate", "fpr_at_95_tpr", "peak_on_defect_rate"})


def metrics_tables(metrics: Metrics, title: str) -> Group:
    """Return the metrics of a model version on a dataset, with their 95 % confidence intervals.

    Each figure that depends on a threshold names it.
    """
    figures = table("metric", "value", "95 % interval", title=title, right=("value",))
    at_threshold = _at_threshold(metrics)
    for label, name in _METRICS:
        named = f"{label}{at_threshold}" if name in _AT_THRESHOLD else label
        figures.add_row(named, _figure(metrics, name), _interval(metrics, name))
    if any(metrics.HasField(name) for name in _OF_REGIONS) and metrics.HasField("regions_threshold"):  # type: ignore[arg-type]
        figures.add_row("regions: threshold of these figures", number(metrics.regions_threshold), "")
        figures.add_row("regions: pixel threshold", number(metrics.regions_pixel_threshold), "")
    figures.add_row("test images, good", str(metrics.good_images), "")
    figures.add_row("test images, defective", str(metrics.defective_images), "")
    if metrics.skipped_images:
        figures.add_row("unreadable test images", str(metrics.skipped_images), "")
    if metrics.unmasked_images:
        figures.add_row("defective images without a mask", str(metrics.unmasked_images), "")
    if metrics.copied_images:
        figures.add_row("test images left out as copies", str(metrics.copied_images), "")
    tables = [figures]
    if metrics.classes:
        tables.append(_classes(metrics))
    if metrics.HasField("latency"):
        tables.append(_latency(metrics.latency))
    return Group(*tables)


def _at_threshold(metrics: Metrics) -> str:
    """Return the threshold of the figures at one; older servers do not name it."""
    return f" at threshold {number(metrics.threshold)}" if metrics.HasField("threshold") else ""


def _classes(metrics: Metrics) -> Table:
    names = [label for label, _ in _CLASS_METRICS]
    title = f"classes, detected{at_threshold}" if (at_threshold := _at_threshold(metrics)) else None
    rows = table("class", "images", *names, title=title, right=("images", *names))
    for defect in metrics.classes:
        cells = (
            "\n".join(filter(None, (_figure(defect, name), _interval(defect, name))))
            for _, name in _CLASS_METRICS
        )
        rows.add_row(defect.class_name, str(defect.images), *cells)
    return rows


def frame_latency(latency: FrameLatency) -> str:
    """Return the measured time of a frame, for people."""
    threads = {0: "", 1: ", one thread"}.get(latency.threads, f", {latency.threads} threads")
    return (
        f"{_ms(latency.median)} ms for {latency.width} x {latency.height} px on {latency.device}{threads} "
        f"({escape(latency.processor)})"
    )


def _latency(latency: Latency) -> Table:
    quantiles = ("p50", "p95", "p99")
    title = f"ms per image, {latency.runtime} on {latency.device}, batches of {latency.batch_size}"
    rows = table(title, *quantiles, right=quantiles)
    for name in ("decode", "prepare", "inference"):
        rows.add_row(name, *(_ms(getattr(getattr(latency, name), quantile)) for quantile in quantiles))
    return rows


def _ms(duration: Duration) -> str:
    return f"{duration.ToTimedelta().total_seconds() * 1000:.1f}"


def _figure(metrics: Metrics | ClassMetrics, name: str) -> str:
    value = optional(metrics, name)
    return share(value) if name in _RATES else number(value)


def _interval(metrics: Metrics | ClassMetrics, name: str) -> str:
    if not metrics.HasField(name) or name not in metrics.intervals:  # type: ignore[arg-type]
        return ""
    interval: Interval = metrics.intervals[name]
    if name in _RATES:
        return f"{100 * interval.low:.0f}-{100 * interval.high:.0f} %"
    return f"{interval.low:.3f}-{interval.high:.3f}"
