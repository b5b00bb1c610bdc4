# SPDX-License-Identifier: Apache-2.0
"""How well a model does, as tables of at most 80 columns."""

from google.protobuf.duration_pb2 import Duration
from rich.console import Group
from rich.table import Table

from blemish.v1.model_pb2 import ClassMetrics, Interval, Latency, Metrics
from blemish_client.cli.output import number, optional, share, table

_FIGURES = (
    ("image AUROC", "image_auroc"),
    ("F1 at the threshold", "f1"),
    ("best F1 (uses labels; to compare)", "best_f1"),
    ("good images rejected", "false_reject_rate"),
    ("defective images detected", "detection_rate"),
    ("good rejected at 95 % detected", "fpr_at_95_tpr"),
    ("pixel AUROC", "pixel_auroc"),
    ("AUPRO (to 0.3)", "aupro"),
)
_OF_CLASSES = (
    ("image AUROC", "image_auroc"),
    ("FPR95", "fpr_at_95_tpr"),
    ("detected", "detection_rate"),
    ("pixel AUROC", "pixel_auroc"),
    ("AUPRO", "aupro"),
)
_RATES = frozenset({"false_reject_rate", "detection_rate", "fpr_at_95_tpr"})


def metrics_tables(metrics: Metrics, title: str) -> Group:
    """Return the figures of one model version on one dataset, with their 95 % intervals."""
    figures = table("figure", "value", "95 % interval", title=title, right=("value",))
    for words, name in _FIGURES:
        figures.add_row(words, _figure(metrics, name), _interval(metrics, name))
    figures.add_row("test images, good", str(metrics.good_images), "")
    figures.add_row("test images, defective", str(metrics.defective_images), "")
    if metrics.skipped_images:
        figures.add_row("test images that cannot be read", str(metrics.skipped_images), "")
    if metrics.unmasked_images:
        figures.add_row("defective images without a mask", str(metrics.unmasked_images), "")
    shown = [figures]
    if metrics.classes:
        shown.append(_classes(metrics))
    if metrics.HasField("latency"):
        shown.append(_latency(metrics.latency))
    return Group(*shown)


def _classes(metrics: Metrics) -> Table:
    names = [words for words, _ in _OF_CLASSES]
    rows = table("class", "images", *names, right=("images", *names))
    for kind in metrics.classes:
        cells = (
            "\n".join(filter(None, (_figure(kind, name), _interval(kind, name)))) for _, name in _OF_CLASSES
        )
        rows.add_row(kind.class_name, str(kind.images), *cells)
    return rows


def _latency(latency: Latency) -> Table:
    quantiles = ("p50", "p95", "p99")
    where = f"ms an image, {latency.runtime} on {latency.device}, batches of {latency.batch_size}"
    rows = table(where, *quantiles, right=quantiles)
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
    of: Interval = metrics.intervals[name]
    if name in _RATES:
        return f"{100 * of.low:.0f}-{100 * of.high:.0f} %"
    return f"{of.low:.3f}-{of.high:.3f}"
