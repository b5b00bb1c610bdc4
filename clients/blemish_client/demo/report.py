# SPDX-License-Identifier: Apache-2.0
"""The figures of a demo: tables for the screen and results.md, everything in results.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table

from blemish.v1.model_pb2 import Metrics, ModelVersion
from blemish_client.cli.output import ABSENT, number, optional, plain, share, table
from blemish_client.demo.material import Material
from blemish_client.demo.trial import JUDGED, Lookup

_AVERAGED = ("image_auroc", "pixel_auroc", "aupro", "false_reject_rate", "detection_rate")


@dataclass(frozen=True)
class CategoryResult:
    """The models, figures and searches of one category."""

    material: Material
    model: ModelVersion
    indexed: int
    lookups: tuple[Lookup, ...]
    rival: ModelVersion | None = None
    """The EfficientAD model of the same images, if one was trained."""

    @property
    def metrics(self) -> Metrics:
        return self.model.metrics


@dataclass(frozen=True)
class Grid:
    """A table for the screen or for Markdown."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int = 1
    """Number of leading columns that hold words; the others hold figures."""

    def on_screen(self, title: str) -> Table:
        drawn = table(*self.columns, title=title, right=self.columns[self.words :])
        for row in self.rows:
            drawn.add_row(*row)
        return drawn

    def markdown(self) -> str:
        figures = len(self.columns) - self.words
        lines = [self.columns, ("---",) * self.words + ("---:",) * figures, *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |".replace("\n", " ") for cells in lines)


def averages(models: Sequence[ModelVersion]) -> dict[str, float | None]:
    """Average each figure over the categories that have it; None if no category has it."""
    found = {name: [optional(model.metrics, name) for model in models] for name in _AVERAGED}
    present = {name: [value for value in values if value is not None] for name, values in found.items()}
    return {name: fmean(values) if values else None for name, values in present.items()}


def quality(materials: Sequence[Material], models: Sequence[ModelVersion]) -> Grid:
    """Return how well each model separates good from defective images."""
    rows = []
    for material, model in zip(materials, models, strict=True):
        metrics, split = model.metrics, model.split
        crossed = split.method == "cross-calibration"
        rows.append(
            (
                material.id,
                *_figures({name: optional(metrics, name) for name in _AVERAGED}),
                number(model.calibration.threshold),
                f"{split.learned} (cross)" if crossed else f"{split.learned} + {split.held_out}",
                f"{metrics.good_images} / {metrics.defective_images}",
            )
        )
    rows.append(("average", *_figures(averages(models)), "", "", ""))
    # Broken so that the table fits a terminal of 80 columns.
    measured = ("image\nAUROC", "pixel\nAUROC", "AUPRO", "false\nrejects", "detected", "threshold")
    return Grid(("category", *measured, "learned\n+ held", "test\ngood/bad"), tuple(rows))


def auroc(categories: Sequence[CategoryResult]) -> Grid:
    """Return the AUROC of both detectors on the categories that both were trained on."""
    rows = []
    compared = [(category, category.rival) for category in categories if category.rival is not None]
    for category, rival in compared:
        pairs = [optional(of.metrics, n) for n in _AVERAGED[:2] for of in (category.model, rival)]
        rows.append((category.material.id, *map(number, pairs), rival.training.get("steps", ABSENT)))
    ours = averages([category.model for category, _ in compared])
    theirs = averages([rival for _, rival in compared])
    means = [of[name] for name in _AVERAGED[:2] for of in (ours, theirs)]
    rows.append(("average", *map(number, means), ""))
    columns = tuple(
        f"{kind}\n{name}"
        for kind in ("image AUROC", "pixel AUROC")
        for name in ("PatchCore", "EfficientAD")
    )
    return Grid(("category", *columns, "EfficientAD\nsteps"), tuple(rows))


def likeness(categories: Sequence[CategoryResult]) -> Grid:
    """Return the hits of the searches."""
    rows = []
    for category in categories:
        for lookup in category.lookups:
            of = len(lookup.judged)
            rows.append(
                (
                    category.material.id,
                    f"{lookup.class_name}, {number(lookup.inspection.score)}",
                    ", ".join(f"{hit.class_name} {hit.score:.2f}" for hit in lookup.judged) or ABSENT,
                    _of(lookup.same_side, of, lookup.others_on_side),
                    _of(lookup.same_class, of, lookup.others_in_class),
                )
            )
    columns = ("category", "query, score", f"the {JUDGED} most similar, scores", "same side", "same class")
    return Grid(columns, tuple(rows), words=3)


def time_spent(seconds: Mapping[str, float]) -> Grid:
    rows = [(stage, f"{spent:.1f}") for stage, spent in seconds.items()]
    return Grid(("stage", "seconds"), (*rows, ("all", f"{sum(seconds.values()):.1f}")))


def summary(categories: Sequence[CategoryResult]) -> str:
    lookups = [lookup for category in categories for lookup in category.lookups]
    hits = sum(len(lookup.judged) for lookup in lookups)
    sides = sum(lookup.same_side for lookup in lookups)
    classes = sum(lookup.same_class for lookup in lookups)
    left_out = sum(lookup.left_out for lookup in lookups)
    return (
        f"{sides} of {hits} hits are on the query's side (good or defective), {classes} of its class. "
        f"The query images are themselves in the index; hits that are the query are left out "
        f"({left_out} of {len(lookups)} searches)."
    )


SHORT_NOTE = (
    "The short demo trains EfficientAD on the first category only, and not for long: it starts from a "
    "least-squares solution. make demo FULL=1 trains it on every category."
)


def next_steps(keep: Path | None) -> str:
    """Return the commands to go on with."""
    data = f" --data {keep / 'data'}" if keep is not None else ""
    return f"""
Next, use your own images: a folder with train/good and, if you have them, test/good and test/DEFECT.
  make demo DATA=path/to/images        the same tables for your surface
Or step by step:
  .venv/bin/blemish up{data} --import-root path/to/images
  .venv/bin/blemish dataset import part path/to/images
  .venv/bin/blemish train part --promote
  .venv/bin/blemish score frame.png --model part-patchcore --map heat.png
docs/getting-started.md explains each step."""


def provenance(*, synthetic: bool, seed: int) -> str:
    if synthetic:
        return (
            f"The images are synthetic, drawn by blemish with seed {seed}. No camera took them; the "
            "figures predict little about a real line and nothing about MVTec AD."
        )
    return f"The images were given with --data; seed {seed}."


def markdown(
    categories: Sequence[CategoryResult],
    seconds: Mapping[str, float],
    pictures: Sequence[str],
    provenance: str,
) -> str:
    """Return results.md."""
    tables = quality([o.material for o in categories], [o.model for o in categories])
    rivals = ""
    if found := [(o.material, o.rival) for o in categories if o.rival is not None]:
        table_of_rivals = quality([material for material, _ in found], [model for _, model in found])
        rivals = (
            f"## EfficientAD\n\n{table_of_rivals.markdown()}\n\n"
            f"## Both detectors\n\n{auroc(categories).markdown()}\n\n"
        )
    shown = "\n\n".join(f"![{name}]({name})" for name in pictures)
    return f"""\
# blemish demo

{provenance}

Thresholds come from good training images alone, without labels. All figures are measured on test
images that the training did not use. "cross" marks a threshold by cross-calibration: each training
image was scored by a model that was trained on others.

{tables.markdown()}

{rivals}## Search

{summary(categories)}

{likeness(categories).markdown()}

## Time

{time_spent(seconds).markdown()}

## Pictures

{shown}
"""


def results(
    categories: Sequence[CategoryResult],
    seconds: Mapping[str, float],
    *,
    synthetic: bool,
    seed: int,
    version: str,
) -> dict[str, Any]:
    """Return results.json."""
    return {
        "synthetic": synthetic,
        "seed": seed,
        "server_version": version,
        "categories": [
            {
                "category": category.material.id,
                "model": plain(category.model),
                "efficientad": plain(category.rival) if category.rival else None,
                "indexed_images": category.indexed,
                "searches": [_as_plain(category.material, lookup) for lookup in category.lookups],
            }
            for category in categories
        ],
        "average": averages([category.model for category in categories]),
        "average_efficientad": averages([o.rival for o in categories if o.rival is not None]),
        "seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
    }


def _as_plain(material: Material, lookup: Lookup) -> dict[str, Any]:
    inspection = plain(lookup.inspection)
    hits = [plain(hit) for hit in lookup.hits]
    for absent in ("embedding", "anomaly_map"):
        inspection.pop(absent, None)
    for hit in hits:
        hit.pop("thumbnail", None)
    return {
        "query": lookup.image.relative_to(material.folder).as_posix(),
        "class_name": lookup.class_name,
        "inspection": inspection,
        "query_left_out": lookup.left_out,
        "same_side": lookup.same_side,
        "same_class": lookup.same_class,
        "judged": len(lookup.judged),
        "others_on_side": lookup.others_on_side,
        "others_in_class": lookup.others_in_class,
        "hits": hits,
    }


def _of(count: int, judged: int, there: int) -> str:
    return f"{count} of {judged}" + (f" (there are {there})" if there < judged else "")


def _figures(values: Mapping[str, float | None]) -> tuple[str, ...]:
    image, pixel, aupro, rejected, detected = (values[name] for name in _AVERAGED)
    return (number(image), number(pixel), number(aupro), share(rejected), share(detected))
