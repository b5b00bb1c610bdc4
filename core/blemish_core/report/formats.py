# SPDX-License-Identifier: Apache-2.0
"""Formats of numbers in reports."""

from base64 import b64encode

from blemish_core.evaluation.metrics import Interval

ABSENT = "\N{EN DASH}"
_RATES = frozenset({"false_reject_rate", "detection_rate", "fpr_at_95_tpr", "peak_on_defect_rate"})


def metric(value: float | None, name: str) -> str:
    """Format the metric ``name`` of ``Metrics``: a rate in percent, another metric with three decimals."""
    if value is None:
        return ABSENT
    return percent(value) if name in _RATES else f"{value:.3f}"


def interval(value: Interval | None, name: str) -> str:
    """Format the interval of the metric ``name``; return an empty string for None."""
    if value is None:
        return ""
    if name in _RATES:
        return f"{100 * value.low:.1f} to {100 * value.high:.1f} %"
    return f"{value.low:.3f} to {value.high:.3f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def score(value: float) -> str:
    return f"{value:.4g}"


def p_value(value: float) -> str:
    return f"{value:.2g}"


def images(count: int, kind: str = "") -> str:
    """Format a number of images, optionally of some ``kind``."""
    return f"{count}{' ' if kind else ''}{kind} image{'' if count == 1 else 's'}"


def data_uri(content: bytes, kind: str) -> str:
    """Return an image file, ``png`` or ``jpeg``, as a URI that contains its bytes."""
    return f"data:image/{kind};base64,{b64encode(content).decode()}"
