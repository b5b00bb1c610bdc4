# SPDX-License-Identifier: Apache-2.0
"""The limits of PatchCore's memory bank against none, on each set of real images in a folder.

    python -m tests.benchmarks.bench_bank_limit DATA [--draws 3] [--max-train 200] [--cache FOLDER]

A default training selects at most 10,000 entries from at most 100,000 patches. Without limits, a tenth of
all patches is kept, as in the paper. Sets, draws and trials are those of bench_real. Differences are
paired: they compare trainings of equal set, seed and images.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from unittest import mock

import typer
from tests.benchmarks.bench_real import judged
from tests.benchmarks.real.comparison import VariantComparison
from tests.benchmarks.real.image_sets import SubsetLimits, find_sets, import_set
from tests.benchmarks.real.trial import Trial, TrialCache, warm_up
from tests.benchmarks.real.variants import PATCHCORE, Variant
from tests.benchmarks.report import Report, page_section

from blemish_core.detectors.base import ReadImage, TrainingContext, TrainingResult
from blemish_core.detectors.patchcore.settings import DEFAULT_INPUT_SIZE, PatchCoreSettings
from blemish_core.detectors.patchcore.training import features
from blemish_core.platform.command_line import errors_as_exit_codes

app = typer.Typer(add_completion=False)

_UNLIMITED = 10**9
_MOST_ENTRIES = 1_000_000
_FIGURES = ("image_auroc", "aupro")


def train_on_all_patches(
    settings: PatchCoreSettings, images: Sequence[ReadImage], context: TrainingContext
) -> TrainingResult:
    """Train with a coreset of all patches."""
    with mock.patch.object(features, "MOST_PATCHES", _UNLIMITED):
        return PATCHCORE.train(settings, images, context)


def _variants(size: int) -> tuple[Variant, Variant]:
    """Return the variants with and without limits at a shorter side of the input, in px."""
    return (
        Variant(f"limits, {size} px", settings={"input_size": size}),
        Variant(
            f"no limits, {size} px",
            replace(PATCHCORE, train=train_on_all_patches),
            {"input_size": size, "max_entries": _MOST_ENTRIES},
        ),
    )


@app.command()
def measure(
    data: Annotated[Path, typer.Argument(help="Folder of sets in MVTec AD's layout.", exists=True)],
    draws: Annotated[int, typer.Option(min=1, help="Number of seeds and training subsets.")] = 3,
    sizes: Annotated[
        list[int], typer.Option("--size", help="Shorter side of inputs in px, may be repeated.")
    ] = [256, DEFAULT_INPUT_SIZE],  # noqa: B006 - Typer needs a list and never changes it
    sets: Annotated[
        list[str], typer.Option(help="Set to measure, may be repeated.", show_default="all")
    ] = [],  # noqa: B006
    max_train: Annotated[
        int | None, typer.Option(min=2, help="Most training images of a draw.", show_default="all")
    ] = None,
    max_test_per_class: Annotated[
        int | None, typer.Option(min=1, help="Most test images of each class.", show_default="all")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder with the trials of earlier runs.", show_default="none")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for all raw figures.", show_default="none")
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Print the report only.")] = False,
) -> None:
    """Compare PatchCore with and without limits of its memory bank on real images.

    Example: python -m tests.benchmarks.bench_bank_limit data --draws 3 --max-train 200 --cache judged
    """
    with errors_as_exit_codes():
        folders = find_sets(data, sets)
        limits = SubsetLimits(max_train, max_test_per_class)
        warm_up()
        with page_section("bench_bank_limit", "Limit of the memory bank", keep=not no_page) as report:
            trials: list[Trial] = []
            for folder in folders:
                with tempfile.TemporaryDirectory() as made:
                    images = import_set(folder, Path(made), limits)
                    variants = [variant for size in sizes for variant in _variants(size)]
                    trials += judged(images, variants, range(draws), limits, TrialCache(cache))
                if json_file is not None:
                    json_file.write_text(json.dumps([each.model_dump() for each in trials]) + "\n")
            _write_report(report, VariantComparison(trials), sizes)


def _write_report(report: Report, comparison: VariantComparison, sizes: Sequence[int]) -> None:
    report.write("Means of the draws; times are those of one thread, and other load changes them:")
    report.write()
    report.write("| set | variant | bank entries | training, s | frame, ms | image AUROC | AUPRO |")
    report.write("|---|---|---|---|---|---|---|")
    for name in comparison.sets:
        for variant in comparison.variants:

            def of(figure: str, name: str = name, variant: str = variant) -> float:
                value = comparison.of_set(variant, name, figure)
                return float("nan") if value is None else value

            report.write(
                f"| {name} | {variant} | {of('bank_entries'):,.0f} | {of('train_s'):.0f} | "
                f"{of('frame_ms'):.1f} | {of('image_auroc'):.4f} | {of('aupro'):.4f} |"
            )
    report.write()
    report.write(
        "Difference of the limits from none on equal sets and draws, with the 95 % interval over sets and "
        "draws. In parentheses: sets with a higher figure."
    )
    report.write()
    report.write("| input, px | image AUROC | AUPRO |")
    report.write("|---|---|---|")
    for size in sizes:
        limited, unlimited = _variants(size)
        cells = (_difference(comparison, limited.name, unlimited.name, figure) for figure in _FIGURES)
        report.write(f"| {size} | {' | '.join(cells)} |")


def _difference(comparison: VariantComparison, variant: str, baseline: str, figure: str) -> str:
    found = comparison.difference(variant, baseline, figure)
    if found.mean.value is None:
        return "-"
    text = f"{found.mean.value:+.4f}"
    if (interval := found.mean.interval) is not None:
        text += f" [{interval.low:+.4f}, {interval.high:+.4f}]"
    return f"{text} ({found.better} of {found.sets})"


if __name__ == "__main__":
    app()
