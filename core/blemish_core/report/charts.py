# SPDX-License-Identifier: Apache-2.0
"""The charts of a report as PNG. Each chart has its own figure, so any thread may draw."""

from collections.abc import Mapping, Sequence
from io import BytesIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

from blemish_core.evaluation.metrics import GOOD, Metrics
from blemish_core.report import formats
from blemish_core.report.scripts import DrawableName, drawable

GOOD_COLOUR, DEFECT_COLOUR = "#2a7f9e", "#c8502d"
_INK, _FAINT, _RULE = "#1f2933", "#66727f", "#d9dee3"
_DPI = 160
_BINS = 32


def roc(good: Sequence[float], defective: Sequence[float], metrics: Metrics) -> bytes:
    """Draw the ROC curve and mark the threshold."""
    false, true, _ = roc_curve([0] * len(good) + [1] * len(defective), [*good, *defective])
    figure, axes = _figure(4.3, 4.1)
    axes.plot([0, 1], [0, 1], color=_RULE, linewidth=1, linestyle=(0, (4, 3)))
    axes.fill_between(false, true, color=GOOD_COLOUR, alpha=0.1, linewidth=0)
    axes.plot(false, true, color=GOOD_COLOUR, linewidth=2, solid_joinstyle="round", clip_on=False)
    at = metrics.false_reject_rate or 0.0, metrics.detection_rate or 0.0
    axes.plot(
        *at, "o", color="white", markeredgecolor=_INK, markeredgewidth=1.8, markersize=8, clip_on=False
    )
    axes.annotate(
        f"at the threshold\n{formats.metric(at[1], 'detection_rate')} detected\n"
        f"{formats.metric(at[0], 'false_reject_rate')} of good rejected",
        at,
        xytext=(0.55, min(max(at[1] - 0.3, 0.14), 0.62)),
        fontsize=9,
        color=_INK,
        va="center",
        arrowprops={"arrowstyle": "-", "color": _FAINT, "shrinkB": 6, "linewidth": 0.8},
    )
    axes.text(
        0.97,
        0.04,
        f"AUROC {formats.metric(metrics.image_auroc, 'image_auroc')}",
        ha="right",
        fontsize=12,
        color=_INK,
        fontweight="bold",
        transform=axes.transAxes,
    )
    axes.set(
        xlim=(0, 1), ylim=(0, 1.003), xlabel="good images rejected", ylabel="defective images detected"
    )
    _percent(axes)
    return _png(figure)


def scores(
    by_class: Mapping[str, Sequence[float]], threshold: float, best_f1_threshold: float | None
) -> bytes:
    """Draw the histogram of scores of good and defective images, and below it a row of ticks per class."""
    good = by_class.get(GOOD, [])
    defects = {name: of for name, of in sorted(by_class.items()) if name != GOOD}
    rows = [GOOD] * bool(good) + list(defects)
    figure = Figure(figsize=(6.4, 2.9 + 0.24 * len(rows)), dpi=_DPI, layout="constrained")
    axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=(2.1, 0.24 * len(rows) + 0.1))
    all_scores = [score for of in by_class.values() for score in of]
    edges = _edges([*all_scores, threshold])
    pooled = [score for of in defects.values() for score in of]
    for values, colour, name in ((good, GOOD_COLOUR, "good"), (pooled, DEFECT_COLOUR, "defective")):
        if values:
            label = f"{name} ({len(values)})"
            axes.hist(
                values, edges, color=colour, alpha=0.55, label=label, edgecolor="white", linewidth=0.4
            )
    for row, name in enumerate(rows):
        colour = GOOD_COLOUR if name == GOOD else DEFECT_COLOUR
        values = by_class[name]
        strip.plot(values, np.full(len(values), row), "|", color=colour, markersize=9, alpha=0.75)
    _label_rows(strip, [drawable(_shortened(name)) for name in rows])
    strip.set_ylim(len(rows) - 0.4, -0.6)
    for part in (axes, strip):
        _plain(part)
        part.axvline(threshold, color=_INK, linewidth=1.4)
        if best_f1_threshold is not None:
            part.axvline(best_f1_threshold, color=_FAINT, linewidth=1.1, linestyle=(0, (3, 2)))
    strip.tick_params(axis="y", length=0, labelsize=8.5)
    axes.tick_params(axis="x", length=0)
    axes.plot([], [], color=_INK, linewidth=1.4, label="threshold")
    if best_f1_threshold is not None:
        axes.plot([], [], color=_FAINT, linewidth=1.1, linestyle=(0, (3, 2)), label="best F1 (uses labels)")
    axes.set_ylabel("images")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    _legend(axes)
    strip.set_xlabel("anomaly score")
    return _png(figure)


def classes(metrics: Metrics) -> bytes:
    """Draw the image AUROC of each class with its interval."""
    drawn = [(f"{_shortened(name)} ({of.images})", of) for name, of in metrics.classes.items()]
    figure, axes = _figure(5.4, 0.9 + 0.3 * (len(drawn) + 1))
    rows = [
        *((name, of.image_auroc, of.intervals) for name, of in drawn),
        ("all", metrics.image_auroc, metrics.intervals),
    ]
    lowest = 1.0
    for row, (name, value, intervals) in enumerate(rows):
        if value is None:
            continue
        colour, size = (_INK, 7) if name == "all" else (DEFECT_COLOUR, 6)
        interval = intervals.get("image_auroc")
        lowest = min(lowest, value, interval.low if interval else 1.0)
        if interval:
            axes.plot(
                [interval.low, interval.high],
                [row, row],
                color=colour,
                linewidth=2,
                solid_capstyle="round",
                clip_on=False,
            )
        axes.plot(
            value,
            row,
            "D" if name == "all" else "o",
            color=colour,
            markersize=size,
            markeredgecolor="white",
            clip_on=False,
        )
    _label_rows(axes, [drawable(name) for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    start = max(0.0, np.floor(lowest * 20 - 0.5) / 20)
    axes.set(xlim=(min(start, 0.9), 1.0), xlabel="image AUROC, with its 95 % interval")
    if start < 0.5:
        axes.axvline(0.5, color=_FAINT, linewidth=0.8, linestyle=(0, (3, 2)))
    axes.grid(axis="x", color=_RULE, linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    return _png(figure)


def calibration(held_out: Sequence[float], threshold: float) -> bytes:
    """Draw the histogram of scores of held-out good images, which determine the threshold."""
    figure, axes = _figure(5.4, 2.5)
    label = f"held-out good images ({len(held_out)})"
    axes.hist(
        held_out,
        _edges([*held_out, threshold]),
        color=GOOD_COLOUR,
        alpha=0.55,
        label=label,
        edgecolor="white",
        linewidth=0.4,
    )
    axes.axvline(threshold, color=_INK, linewidth=1.4, label="threshold")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.set(xlabel="anomaly score", ylabel="images")
    _legend(axes)
    return _png(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty chart; width and height are in inches."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    axes.set_facecolor("white")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_RULE)
    axes.tick_params(colors=_FAINT, labelsize=9, labelcolor=_INK, width=0.6)
    axes.xaxis.label.set(color=_FAINT, size=9.5)
    axes.yaxis.label.set(color=_FAINT, size=9.5)


def _legend(axes: Axes) -> None:
    axes.legend(
        frameon=False,
        fontsize=8.5,
        labelcolor=_INK,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        handlelength=1.4,
        columnspacing=1.4,
        borderaxespad=0.2,
    )


def _percent(axes: Axes) -> None:
    ticks = (0, 0.25, 0.5, 0.75, 1)
    labels = [f"{tick:.0%}" for tick in ticks]
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.grid(color=_RULE, linewidth=0.6)


def _label_rows(axes: Axes, names: Sequence[DrawableName]) -> None:
    axes.set_yticks(range(len(names)), [name.text for name in names])
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontfamily(name.families)


def _edges(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.02 or 0.5
    return [float(edge) for edge in np.linspace(low - margin, high + margin, _BINS + 1)]


def _shortened(name: str) -> str:
    return name if len(name) <= 20 else f"{name[:19]}…"


def _png(figure: Figure) -> bytes:
    out = BytesIO()
    # Omit the version of matplotlib, so that equal figures give equal files.
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
