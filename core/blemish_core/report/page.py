# SPDX-License-Identifier: Apache-2.0
"""The HTML page of a report, rendered from the templates in ``templates/``."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.colors import to_hex

from blemish_core.evaluation.examples import Example, correctness
from blemish_core.evaluation.metrics import GOOD
from blemish_core.evaluation.resampling import CONFIDENCE, DRAWS, SEED
from blemish_core.report import formats
from blemish_core.report.conclusion import conclude
from blemish_core.report.operating import operating_points
from blemish_core.report.tiles import FOUND_COLOUR, IGNORED_COLOUR, MASK_COLOUR, SCALE, HeatScale

if TYPE_CHECKING:
    from blemish_core.report.write import Report

_LISTED = 1000
"""Most test images in the table of the page; scores.csv contains all."""


@dataclass(frozen=True)
class Tile:
    """An example with its rendered tile."""

    example: Example
    jpeg: bytes


@dataclass(frozen=True)
class PageImages:
    """The charts, as PNG, and the tiles of a page. A chart without data is None."""

    calibration: bytes
    scores: bytes | None = None
    roc: bytes | None = None
    classes: bytes | None = None
    worst: Sequence[Tile] = ()
    best: Sequence[Tile] = ()
    heat: HeatScale | None = None
    mask: bytes | None = None
    """Picture of the mask; None if the model looks at all pixels."""
    held_out: Sequence[Tile] = ()
    learned: Sequence[Tile] = ()


def render_page(
    report: "Report",
    images: PageImages,
    *,
    job: str,
    when: datetime,
    of_training: bool,
) -> str:
    """Return the page as HTML that refers to nothing outside itself.

    Args:
        report: content of the report.
        images: charts and tiles.
        job: id of the job that evaluated the version.
        when: time of the evaluation, UTC.
        of_training: whether the job is the training of the version.
    """
    manifest, evaluation = report.manifest, report.evaluation
    metrics = evaluation.metrics if evaluation else None
    shift = evaluation is not None and evaluation.good_shift is not None
    scores = evaluation.image_scores if evaluation else ()
    good = [each.score for each in scores if each.class_name == GOOD]
    defective = [each.score for each in scores if each.class_name != GOOD]
    return (
        _templates()
        .get_template("report.html.j2")
        .render(
            manifest=manifest,
            evaluation=evaluation,
            metrics=metrics,
            warnings=report.warnings,
            conclusion=conclude(manifest, metrics, shift=shift, outstanding=report.outstanding),
            points=operating_points(manifest.calibration, good, defective),
            suspects=report.good,
            images=images,
            job=job,
            when=when,
            of_training=of_training,
        )
    )


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("blemish_core.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for format_ in (
        formats.data_uri,
        formats.images,
        formats.interval,
        formats.metric,
        formats.p_value,
        formats.percent,
        formats.score,
    ):
        templates.filters[format_.__name__] = format_
    templates.filters["minute"] = lambda time: f"{time:%Y-%m-%d %H:%M} UTC"
    templates.globals.update(
        confidence=CONFIDENCE,
        correctness=correctness,
        draws=DRAWS,
        found_colour=_hex(FOUND_COLOUR),
        ignored_colour=_hex(IGNORED_COLOUR),
        listed=_LISTED,
        mask_colour=_hex(MASK_COLOUR),
        scale=[to_hex(SCALE(step / 8)) for step in range(9)],
        seed=SEED,
    )
    return templates


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)
