# SPDX-License-Identifier: Apache-2.0
"""The calibration in force at the top of a report that an earlier one made.

A stored report never changes. When it is fetched, it gets a section with the present threshold and the
figures at it, computed from the stored scores of the test images. The conclusion is drawn again from them.
"""

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, ValidationError

from blemish_core.calibration import Calibration
from blemish_core.evaluation import stored_scores
from blemish_core.evaluation.higher_scores import is_higher
from blemish_core.evaluation.metrics import Metrics
from blemish_core.models.bundle import Manifest
from blemish_core.models.calibration_log import Revision, ThresholdRule
from blemish_core.models.good_images import read_good_images
from blemish_core.models.store import ModelStore
from blemish_core.models.suspects import find_suspects, outstanding_warning
from blemish_core.platform.errors import Corrupt
from blemish_core.platform.names import ModelRef
from blemish_core.report import formats
from blemish_core.report.conclusion import Conclusion, conclude
from blemish_core.runtimes.choice import TORCH
from blemish_layouts.reading import read_regular

_MAX_METRICS_BYTES = 16 << 20
_BEGIN = b"<body><main>"
"""Begin of the content of a page."""
_CONCLUSION = re.compile(rb'<div class="card conclusion">.*?</div>\n?', re.DOTALL)


class _StoredMetrics(BaseModel):
    """The content of ``metrics.json``."""

    model_config = ConfigDict(frozen=True)

    threshold: float
    metrics: Metrics


def current_page(models: ModelStore, ref: ModelRef, job: str | None) -> bytes:
    """Return the report of a training or of the evaluation ``job``, with the calibration in force.

    Raises:
        NotFound: if the version or the report does not exist.
        Corrupt: if the manifest or the newest calibration is damaged.
    """
    path = models.report(ref, job)
    manifest, page = models.manifest(ref), path.read_bytes()
    stored = _stored_metrics(path.parent)
    latency = stored.metrics.latency if stored else None
    # An evaluation judges by the calibration of its runtime; a training by that of torch.
    runtime = latency.runtime if job and latency else TORCH
    newest, *older = models.calibrations(manifest, runtime).history(2**31)
    before = _calibration_of(manifest.calibration_under(runtime), stored, (newest, *older), job)
    now = newest.calibration
    if (now.threshold, now.pixel_threshold) == (before.threshold, before.pixel_threshold):
        return page
    metrics, conclusion = None, None
    scores = models.scores(manifest, job) if stored is not None else None
    if stored is not None and scores is not None:
        metrics = stored_scores.at_threshold(stored.metrics, scores, now.threshold)
    if metrics is not None or stored is None:
        conclusion = conclude(
            manifest.model_copy(update={"calibration": now}),
            metrics,
            shift=scores is not None and is_higher(now, scores.good),
            outstanding=job is None and _has_outstanding(models, manifest, now),
        )
        page = _CONCLUSION.sub(b"", page, 1)
    section = _section(manifest, newest, before, stored, metrics, conclusion)
    return page.replace(_BEGIN, _BEGIN + section, 1)


def _has_outstanding(models: ModelStore, manifest: Manifest, calibration: Calibration) -> bool:
    """Return whether few held-out images raise a threshold; False if their scores cannot be read."""
    try:
        images = read_good_images(models.folder(manifest.model, manifest.version))
    except Corrupt:
        return False
    if images is None:
        return False
    suspects = find_suspects(images, calibration, len(images))
    return outstanding_warning(suspects, calibration, manifest.dataset) is not None


def _calibration_of(
    trained: Calibration, stored: _StoredMetrics | None, history: tuple[Revision, ...], job: str | None
) -> Calibration:
    """Return the calibration by which a report was made; one of an evaluation is in the history."""
    if job is None or stored is None:
        return trained
    pixel_threshold = stored.metrics.regions_pixel_threshold
    fitting = [each.calibration for each in history if each.calibration.threshold == stored.threshold]
    exact = [each for each in fitting if each.pixel_threshold == pixel_threshold]
    return (exact or fitting or [trained.at_threshold(stored.threshold)])[0]


def _stored_metrics(folder: Path) -> _StoredMetrics | None:
    try:
        return _StoredMetrics.model_validate_json(read_regular(folder / "metrics.json", _MAX_METRICS_BYTES))
    except (OSError, ValidationError):
        return None


def _section(
    manifest: Manifest,
    newest: Revision,
    before: Calibration,
    stored: _StoredMetrics | None,
    metrics: Metrics | None,
    conclusion: Conclusion | None,
) -> bytes:
    return (
        _templates()
        .get_template("_in_force.html.j2")
        .render(
            manifest=manifest,
            revision=newest,
            rule=_rule(newest),
            now=newest.calibration,
            before=before,
            metrics=metrics,
            has_metrics=stored is not None,
            conclusion=conclusion,
        )
        .encode()
    )


def _rule(revision: Revision) -> str:
    match revision.rule:
        case ThresholdRule.FIXED:
            return "a threshold fixed by a person"
        case ThresholdRule.FALSE_REJECT_RATE:
            return f"the threshold for {formats.percent(revision.value)} false rejects"
        case ThresholdRule.TRAINED:
            return "the threshold of the training"


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("blemish_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for format_ in (formats.interval, formats.metric, formats.percent, formats.score):
        templates.filters[format_.__name__] = format_
    templates.filters["minute"] = lambda time: f"{time:%Y-%m-%d %H:%M} UTC"
    return templates
