# SPDX-License-Identifier: Apache-2.0
"""The content of a report, and the files that it is written to."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blemish_core.evaluation.evaluate import Evaluation, ExampleImage
from blemish_core.evaluation.examples import correctness
from blemish_core.evaluation.metrics import GOOD
from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.models.bundle import Manifest
from blemish_core.models.suspects import Suspect

if TYPE_CHECKING:
    from blemish_core.report.page import PageImages, Tile


@dataclass(frozen=True)
class EvaluationRun:
    """The evaluation job of a report."""

    job: str
    """Id of the job."""
    when: datetime
    """Time of the evaluation, UTC."""


@dataclass(frozen=True)
class Report:
    """A model version and its results on test images."""

    manifest: Manifest
    evaluation: Evaluation | None
    """Results, or None without test images."""
    warnings: Sequence[str]
    by: EvaluationRun | None = None
    """Evaluation job, or None in the report of the training."""
    mask: FrameMask | None = None
    """Pixels that the model looks at, or None for all."""
    good: Sequence[Suspect] = ()
    """Good images of the training with the highest scores."""
    held_out: Sequence[ExampleImage] = ()
    """Pictures of held-out ones among them."""
    learned: Sequence[ExampleImage] = ()
    """Pictures of others among them."""
    outstanding: bool = False
    """True if few held-out images raise the threshold above that of all others."""


def write(report: Report, folder: Path) -> None:
    """Write all files of ``report`` into ``folder``; equal reports give equal files."""
    # matplotlib takes a second to import, and a worker may never draw a report.
    from blemish_core.report.page import render_page

    folder.mkdir(exist_ok=True)
    images = _images(report, folder)
    by = report.by
    html = render_page(
        report,
        images,
        job=by.job if by else report.manifest.job,
        when=by.when if by else report.manifest.created,
        of_training=by is None,
    )
    (folder / "report.html").write_text(html, encoding="utf-8")
    evaluation = report.evaluation
    if evaluation is not None:
        content = {
            "model": report.manifest.name,
            "job": by.job if by else report.manifest.job,
            "time": (by.when if by else report.manifest.created).isoformat(),
            "threshold": report.manifest.calibration.threshold,
            "metrics": evaluation.metrics.model_dump(mode="json"),
        }
        (folder / "metrics.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / "scores.csv").write_text(_table(report.manifest, evaluation), encoding="utf-8")


def _images(report: Report, folder: Path) -> "PageImages":
    """Draw the charts and tiles, and write each as a PNG."""
    from blemish_core.report import charts
    from blemish_core.report.page import PageImages, Tile
    from blemish_core.report.tiles import HeatScale, encoded, picture_of_mask, tile

    calibration, evaluation = report.manifest.calibration, report.evaluation
    examples = [*report.held_out, *report.learned]
    if evaluation is not None:
        examples += [*evaluation.worst, *evaluation.best]
    # The 2nd percentile, because a single dark pixel would stretch the scale.
    lowest = min((_low(each) for each in examples), default=0.0)
    heat = HeatScale(calibration.pixel_threshold, lowest)

    def write_png(name: str, png: bytes) -> bytes:
        (folder / f"{name}.png").write_bytes(png)
        return png

    held_out = write_png("calibration", charts.calibration(calibration.scores, calibration.threshold))
    mask = None
    if report.mask is not None:
        mask = write_png("mask", encoded(picture_of_mask(report.mask), "PNG"))

    def tiles(kind: str, images: Sequence[ExampleImage]) -> "list[Tile]":
        drawn_tiles = []
        for number, each in enumerate(images, start=1):
            drawn = tile(each, heat)
            write_png(f"{kind}-{number}", encoded(drawn, "PNG"))
            drawn_tiles.append(Tile(each.example, encoded(drawn, "JPEG")))
        return drawn_tiles

    good_images = PageImages(
        calibration=held_out,
        mask=mask,
        heat=heat if examples else None,
        held_out=tiles("held-out", report.held_out),
        learned=tiles("learned", report.learned),
    )
    if evaluation is None:
        return good_images
    metrics = evaluation.metrics
    names = sorted({each.class_name for each in evaluation.image_scores})
    by_class = {name: evaluation.scores(name) for name in names}
    good = by_class.get(GOOD, [])
    defective = [score for name, of in by_class.items() if name != GOOD for score in of]
    scores = charts.scores(by_class, calibration.threshold, metrics.best_f1_threshold)
    return replace(
        good_images,
        scores=write_png("scores", scores),
        roc=write_png("roc", charts.roc(good, defective, metrics)) if good and defective else None,
        classes=write_png("classes", charts.classes(metrics)) if good and defective else None,
        worst=tiles("worst", evaluation.worst),
        best=tiles("best", evaluation.best),
    )


def _low(image: ExampleImage) -> float:
    return float(np.quantile(image.example.anomaly_map, 0.02))


def _table(manifest: Manifest, evaluation: Evaluation) -> str:
    calibration = manifest.calibration
    out = StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(("path", "class", "score", "p_value", "verdict", "judgement", "original_path", "sha256"))
    for each in evaluation.image_scores:
        anomalous = calibration.is_anomalous(each.score)
        rows.writerow(
            (
                each.path,
                each.class_name,
                f"{each.score:.9g}",  # exact, because figures of later thresholds are computed from it
                f"{calibration.p_value(each.score):.6g}",
                "anomalous" if anomalous else "normal",
                correctness(each.class_name == GOOD, each.score, calibration.threshold),
                each.original,
                each.sha256,
            )
        )
    return out.getvalue()
