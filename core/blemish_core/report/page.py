# SPDX-License-Identifier: Apache-2.0
"""The page of a report: what an engineer asks first at the top, what it was made with at the bottom."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files

from matplotlib.colors import to_hex

from blemish_core.evaluation.evaluate import Evaluation
from blemish_core.evaluation.examples import Correctness, Example, correctness
from blemish_core.evaluation.metrics import GOOD, ClassMetrics, Latency, Metrics
from blemish_core.evaluation.resampling import CONFIDENCE, DRAWS, SEED
from blemish_core.models.bundle import Manifest
from blemish_core.platform.names import dataset_name, job_name
from blemish_core.report import words
from blemish_core.report.markup import Child, Markup, joined, picture, table, tag
from blemish_core.report.tiles import FOUND_COLOUR, MASK_COLOUR, SCALE, HeatScale

_LISTED = 1000
"""Test images by name; scores.csv has all."""
_TITLES = {
    "image_auroc": "image AUROC",
    "detection_rate": "defective images detected",
    "false_reject_rate": "good images rejected",
    "f1": "F1 at the threshold",
    "fpr_at_95_tpr": "good rejected where 95 % are detected",
    "pixel_auroc": "pixel AUROC",
    "aupro": "AUPRO, up to 30 % false positives",
    "best_f1": "best F1 of any threshold",
}


@dataclass(frozen=True)
class Tile:
    example: Example
    jpeg: bytes


@dataclass(frozen=True)
class PageImages:
    """The charts (PNG) and tiles of a page; None where there is nothing to draw."""

    calibration: bytes
    scores: bytes | None = None
    roc: bytes | None = None
    classes: bytes | None = None
    worst: Sequence[Tile] = ()
    best: Sequence[Tile] = ()
    heat: HeatScale | None = None


def page(
    manifest: Manifest,
    evaluation: Evaluation | None,
    warnings: Sequence[str],
    art: PageImages,
    *,
    job: str,
    when: datetime,
    of_training: bool,
) -> str:
    """Return the whole HTML; it refers to nothing outside itself."""
    metrics = evaluation.metrics if evaluation else None
    title = f"{manifest.model}, version {manifest.version}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{title}: {'training' if of_training else 'evaluation'} report"),
        Markup(f"<style>{files(__package__).joinpath('style.css').read_text(encoding='utf-8')}</style>"),
    )
    body = tag(
        "main",
        tag("div", "Training report" if of_training else "Evaluation report", class_="kind"),
        tag("h1", title),
        _subtitle(manifest, metrics, job, when, of_training),
        _warnings(warnings),
        *(_figures(evaluation, manifest, art) if evaluation else [_untested()]),
        *_pictures(art, manifest),
        *_making(manifest, art, of_training),
        _test_images(evaluation, manifest) if evaluation else None,
        tag("footer", f"{manifest.name} · blemish {manifest.libraries.get('blemish', '')}"),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', body), lang='en').html}\n"


def _subtitle(
    manifest: Manifest, metrics: Metrics | None, job: str, when: datetime, of_training: bool
) -> Markup:
    on = metrics.dataset if metrics else manifest.dataset
    snapshot = metrics.dataset_snapshot if metrics else manifest.dataset_snapshot
    parts = [
        f"category {manifest.category}",
        manifest.detector,
        f"{'trained' if of_training else 'measured'} on {dataset_name(on)}, snapshot {snapshot[:12]}",
        f"{when:%Y-%m-%d %H:%M} UTC",
        job_name(job),
    ]
    return tag("p", " · ".join(parts), class_="faint")


def _warnings(warnings: Sequence[str]) -> Markup | None:
    if not warnings:
        return None
    return tag("div", tag("ul", *(tag("li", text) for text in warnings)), class_="card warnings")


def _untested() -> Markup:
    return tag(
        "p",
        "The dataset has no test images, so there are no figures of how well good and defective images "
        "are told apart: upload some to test/ and evaluate the version.",
    )


def _figures(evaluation: Evaluation, manifest: Manifest, art: PageImages) -> Iterable[Child]:
    metrics = evaluation.metrics
    yield tag("div", *(_card(metrics, name) for name in _TITLES), class_="figures")
    yield tag("p", _fine_print(metrics), class_="faint")
    charts = [
        _figure(
            art.roc, "ROC curve of the image scores", "How many defective images are found at what price."
        ),
        _figure(
            art.scores,
            "Histogram of the image scores by class",
            "What lies right of the threshold is rejected. Each tick is an image.",
        ),
    ]
    yield tag("h2", "Good against defective")
    yield tag("div", *charts, class_="charts" if art.roc else "two")
    if metrics.classes:
        yield tag("h2", "By class of defect")
        yield tag("div", _classes(metrics), class_="card")
        yield _figure(
            art.classes, "Image AUROC by class", "Each class against all good images.", "card narrow"
        )


def _card(metrics: Metrics, name: str) -> Markup:
    interval = words.between(name, metrics.intervals.get(name))
    return tag(
        "div",
        tag("div", words.figure(name, getattr(metrics, name)), class_="value"),
        tag("div", interval or "\N{NO-BREAK SPACE}", class_="interval"),
        tag("div", _TITLES[name], class_="name"),
        tag("div", "uses labels: to compare only", class_="labels") if name == "best_f1" else None,
        class_="card",
    )


def _fine_print(metrics: Metrics) -> str:
    counted = (
        f"On {words.images(metrics.good_images)} good and {metrics.defective_images} defective. "
        f"Below each figure its {100 * CONFIDENCE:.0f} % interval: percentiles of {DRAWS} bootstrap draws "
        f"of images, good and defective ones apart (seed {SEED}); of the rates at the threshold the exact "
        "binomial one."
    )
    if metrics.image_auroc == 1.0:
        counted += (
            " No good image scores as high as a defective one, so every draw is perfect too: the interval "
            "says that of these images, not of all to come."
        )
    if metrics.image_auroc is None:
        counted += " Figures that need both good and defective images are absent."
    if metrics.unmasked_images:
        counted += (
            f" The pixel figures leave out {words.images(metrics.unmasked_images)} without a usable mask."
        )
    if metrics.skipped_images:
        counted += f" {words.images(metrics.skipped_images)} could not be read and count nowhere."
    return counted


def _figure(png: bytes | None, alt: str, caption: str, class_: str = "card") -> Markup | None:
    if png is None:
        return None
    return tag("figure", picture(png, "png", alt), tag("figcaption", caption), class_=class_)


def _classes(metrics: Metrics) -> Markup:
    names = ("image_auroc", "fpr_at_95_tpr", "detection_rate", "pixel_auroc", "aupro")

    def cells(of: Metrics | ClassMetrics) -> list[Child]:
        return [
            joined(
                words.figure(name, getattr(of, name)),
                tag("span", words.between(name, of.intervals.get(name)), class_="interval"),
            )
            for name in names
        ]

    rows: list[tuple[Child, ...]] = [
        (joined(name, tag("span", f" {of.images}", class_="faint")), *cells(of))
        for name, of in metrics.classes.items()
    ]
    rows.append(
        (
            joined(tag("b", "all"), tag("span", f" {metrics.defective_images}", class_="faint")),
            *cells(metrics),
        )
    )
    return table(
        ("class", "image AUROC", "FPR at 95 % TPR", "detected", "pixel AUROC", "AUPRO"), rows, "numbers"
    )


def _pictures(art: PageImages, manifest: Manifest) -> Iterable[Child]:
    if art.heat is None:
        return
    wrong = sum(each.example.correctness is not Correctness.RIGHT for each in art.worst)
    sections = (
        (
            "Most wrong" if wrong else "Closest calls",
            "False rejects and misses first, the farthest from the threshold at the front; then right "
            "verdicts that were nearest to being wrong."
            if wrong
            else "No verdict is wrong; these came nearest to it.",
            art.worst,
        ),
        ("Most surely right", "Right verdicts farthest from the threshold.", art.best),
    )
    for title, text, tiles in sections:
        if tiles:
            yield tag("h2", title)
            yield tag("p", text, " ", _legend(art.heat), class_="faint")
            yield tag("div", *(_tile(each, manifest) for each in tiles), class_="tiles")


def _legend(heat: HeatScale) -> Markup:
    stops = ", ".join(to_hex(SCALE(step / 8)) for step in range(9))
    return tag(
        "span",
        "Map: low",
        tag("span", class_="scale", style=f"background: linear-gradient(to right, {stops})"),
        f"{words.score(heat.highest)} and above, the middle is the pixel threshold "
        f"{words.score(heat.threshold)}",
        tag("span", class_="key", style=f"border-color: {_hex(MASK_COLOUR)}"),
        "true defect",
        tag("span", class_="key", style=f"border-color: {_hex(FOUND_COLOUR)}"),
        "found",
    )


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in colour)


def _tile(shown: Tile, manifest: Manifest) -> Markup:
    example, calibration = shown.example, manifest.calibration
    right = example.correctness is Correctness.RIGHT
    return tag(
        "figure",
        picture(shown.jpeg, "jpeg", f"{example.image.path} and its anomaly map"),
        tag(
            "figcaption",
            tag("span", example.correctness.value, class_="verdict" if right else "verdict wrong"),
            tag("b", example.image.path),
            f" · score {words.score(example.score)}, p {calibration.p_value(example.score):.2g}",
            " · no mask" if example.mask is None else None,
        ),
        class_="card",
    )


def _making(manifest: Manifest, art: PageImages, of_training: bool) -> Iterable[Child]:
    """What the model was made with."""
    calibration, split = manifest.calibration, manifest.split
    yield tag("h2", "Threshold")
    yield tag(
        "div",
        _figure(
            art.calibration,
            "Histogram of the scores of held-out good images",
            "Good images that the model had not learned from when it scored them; no label is used.",
        ),
        tag(
            "div",
            _facts(
                ("threshold", words.score(calibration.threshold)),
                ("pixel threshold", words.score(calibration.pixel_threshold)),
                ("false rejects asked for", words.share(calibration.target_false_reject_rate)),
                (
                    "false rejects warranted",
                    f"{words.share(calibration.warranted_false_reject_rate)} by "
                    f"{words.images(len(calibration.scores))} held out",
                ),
            ),
            class_="card",
        ),
        class_="two",
    )
    yield tag("h2", "Made with")
    yield tag(
        "div",
        tag(
            "div",
            tag("h3", "Split and settings"),
            _facts(
                ("dataset", f"{dataset_name(manifest.dataset)}, snapshot {manifest.dataset_snapshot[:12]}"),
                ("learned from", f"{words.images(split.learned)} of train/good"),
                ("calibrated on", f"{words.images(split.held_out)} of train/good, {split.method}"),
                ("left out, unreadable", words.images(split.skipped)) if split.skipped else None,
                ("tested on", "test/ alone: training and threshold saw train/good alone"),
                ("seed", str(manifest.seed)),
                *((name, str(value)) for name, value in sorted(manifest.settings.items())),
                *manifest.training.items(),
            ),
            class_="card",
        ),
        tag(
            "div",
            tag("h3", "Provenance"),
            _facts(
                ("version", manifest.name),
                None if of_training else ("trained", f"{manifest.created:%Y-%m-%d %H:%M} UTC"),
                ("training job", job_name(manifest.job)),
                *((name, version) for name, version in sorted(manifest.libraries.items())),
            ),
            class_="card",
        ),
        class_="two",
    )


def _facts(*facts: tuple[str, str] | None) -> Markup:
    return table(("", ""), [fact for fact in facts if fact is not None], "facts")


def _latency(latency: Latency) -> Markup:
    steps = {"decode": latency.decode, "prepare": latency.prepare, "inference": latency.inference}
    rows: list[tuple[Child, ...]] = [
        (name, *(f"{ms:.1f}" for ms in (of.p50_ms, of.p95_ms, of.p99_ms))) for name, of in steps.items()
    ]
    return tag(
        "div",
        tag("h3", "Latency"),
        table(("ms per image", "p50", "p95", "p99"), rows, "numbers"),
        tag(
            "p",
            f"{latency.runtime} on {latency.device}, {words.images(latency.batch_size)} in a forward pass, "
            "of which each counts an equal part. Wall time of this run, whatever else the machine did.",
            class_="faint",
        ),
        class_="card",
    )


def _test_images(evaluation: Evaluation, manifest: Manifest) -> Markup:
    metrics, calibration = evaluation.metrics, manifest.calibration
    counts = [
        (GOOD, str(metrics.good_images)),
        *((name, str(of.images)) for name, of in metrics.classes.items()),
    ]
    shown = evaluation.image_scores[:_LISTED]
    rows: list[tuple[Child, ...]] = [
        (
            each.path,
            words.score(each.score),
            f"{calibration.p_value(each.score):.2g}",
            correctness(each.class_name == GOOD, each.score, calibration.threshold).value,
        )
        for each in shown
    ]
    return joined(
        tag("h2", "Measured on"),
        tag(
            "div",
            tag(
                "div",
                tag("h3", "Test images"),
                _facts(
                    (
                        "dataset",
                        f"{dataset_name(metrics.dataset)}, snapshot {metrics.dataset_snapshot[:12]}",
                    ),
                    *((f"test/{name}", count) for name, count in counts),
                    ("without a usable mask", str(metrics.unmasked_images)),
                    ("skipped, unreadable", str(metrics.skipped_images)),
                ),
                class_="card",
            ),
            _latency(metrics.latency) if metrics.latency else None,
            class_="two",
        ),
        tag(
            "details",
            tag(
                "summary",
                f"All {len(evaluation.image_scores)} test images"
                if len(shown) == len(evaluation.image_scores)
                else f"The first {len(shown)} of {len(evaluation.image_scores)} test images",
            ),
            table(("image", "score", "p", "judgement"), rows, "numbers"),
        ),
    )
