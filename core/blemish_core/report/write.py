# SPDX-License-Identifier: Apache-2.0
"""What a report is made from, and the files it becomes."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blemish_core.evaluation.evaluate import Evaluation, ExampleImage
from blemish_core.evaluation.examples import correctness
from blemish_core.evaluation.metrics import GOOD
from blemish_core.models.bundle import Manifest

if TYPE_CHECKING:
    from blemish_core.report.page import PageImages, Tile


@dataclass(frozen=True)
class EvaluationRun:
    """The evaluation that a report is of."""

    job: str
    """Its id."""
    when: datetime


@dataclass(frozen=True)
class Report:
    """A model version, and what it did on test images."""

    manifest: Manifest
    evaluation: Evaluation | None
    """None if there are no test images."""
    warnings: Sequence[str]
    by: EvaluationRun | None = None
    """None in the report of the training."""


def write(report: Report, folder: Path) -> None:
    """Write all files of ``report`` into ``folder``; equal reports give equal files."""
    # What draws, here and below, only now: matplotlib takes a second, and a worker may wait long to draw.
    from blemish_core.report.page import page

    folder.mkdir(exist_ok=True)
    art = _art(report, folder)
    by = report.by
    html = page(
        report.manifest,
        report.evaluation,
        report.warnings,
        art,
        job=by.job if by else report.manifest.job,
        when=by.when if by else report.manifest.created,
        of_training=by is None,
    )
    (folder / "report.html").write_text(html, encoding="utf-8")
    evaluation = report.evaluation
    if evaluation is not None:
        figures = {
            "model": report.manifest.name,
            "job": by.job if by else report.manifest.job,
            "threshold": report.manifest.calibration.threshold,
            "metrics": evaluation.metrics.model_dump(mode="json"),
        }
        (folder / "metrics.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        (folder / "scores.csv").write_text(_table(report.manifest, evaluation), encoding="utf-8")


def _art(report: Report, folder: Path) -> "PageImages":
    """Draw the charts and tiles, and leave each as a PNG."""
    from blemish_core.report import charts
    from blemish_core.report.page import PageImages, Tile
    from blemish_core.report.tiles import HeatScale, encoded, tile

    calibration, evaluation = report.manifest.calibration, report.evaluation

    def kept(name: str, png: bytes) -> bytes:
        (folder / f"{name}.png").write_bytes(png)
        return png

    held_out = kept("calibration", charts.calibration(calibration.scores, calibration.threshold))
    if evaluation is None:
        return PageImages(calibration=held_out)
    metrics = evaluation.metrics
    names = sorted({each.class_name for each in evaluation.image_scores})
    by_class = {name: evaluation.scores(name) for name in names}
    good = by_class.get(GOOD, [])
    defective = [score for name, of in by_class.items() if name != GOOD for score in of]
    pictures = [*evaluation.worst, *evaluation.best]
    # The 2nd percentile: a single dark pixel would stretch the scale.
    lowest = min((_low(each) for each in pictures), default=0.0)
    heat = HeatScale(calibration.pixel_threshold, lowest)

    def tiles(kind: str, shown: Sequence[ExampleImage]) -> "list[Tile]":
        made = []
        for number, each in enumerate(shown, start=1):
            drawn = tile(each, heat)
            kept(f"{kind}-{number}", encoded(drawn, "PNG"))
            made.append(Tile(each.example, encoded(drawn, "JPEG")))
        return made

    scores = charts.scores(by_class, calibration.threshold, metrics.best_f1_threshold)
    return PageImages(
        calibration=held_out,
        scores=kept("scores", scores),
        roc=kept("roc", charts.roc(good, defective, metrics)) if good and defective else None,
        classes=kept("classes", charts.classes(metrics)) if good and defective else None,
        worst=tiles("worst", evaluation.worst),
        best=tiles("best", evaluation.best),
        heat=heat,
    )


def _low(picture: ExampleImage) -> float:
    return float(np.quantile(picture.example.anomaly_map, 0.02))


def _table(manifest: Manifest, evaluation: Evaluation) -> str:
    calibration = manifest.calibration
    out = StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("path", "class", "score", "p_value", "verdict", "judgement"))
    for each in evaluation.image_scores:
        anomalous = calibration.anomalous(each.score)
        rows.writerow(
            (
                each.path,
                each.class_name,
                f"{each.score:.6g}",
                f"{calibration.p_value(each.score):.6g}",
                "anomalous" if anomalous else "normal",
                correctness(each.class_name == GOOD, each.score, calibration.threshold),
            )
        )
    return out.getvalue()
