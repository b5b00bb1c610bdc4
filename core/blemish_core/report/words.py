# SPDX-License-Identifier: Apache-2.0
"""Figures as a report spells them."""

from blemish_core.evaluation.metrics import Interval

ABSENT = "–"  # noqa: RUF001 an en dash, as tables have it
RATES = frozenset({"false_reject_rate", "detection_rate", "fpr_at_95_tpr"})


def figure(name: str, value: float | None) -> str:
    """Write one figure of ``Metrics``: rates in percent, others to three digits."""
    if value is None:
        return ABSENT
    return share(value) if name in RATES else f"{value:.3f}"


def between(name: str, interval: Interval | None) -> str:
    """Write where a figure lies; empty if that is not known."""
    if interval is None:
        return ""
    if name in RATES:
        return f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"
    return f"{interval.low:.3f} to {interval.high:.3f}"


def share(value: float) -> str:
    return f"{100 * value:.1f} %"


def score(value: float) -> str:
    return f"{value:.4g}"


def images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"
