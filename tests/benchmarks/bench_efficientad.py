# SPDX-License-Identifier: Apache-2.0
"""Compare EfficientAD after several times of training with PatchCore, on real images.

    python -m tests.benchmarks.bench_efficientad DATA [--minutes 5 --minutes 30] [--cache FOLDER]

Sets, draws and test images are those of bench_real. A training's time is counted in CPU time of two cores,
so that other load of the machine does not shorten it: five minutes are 600 s of CPU time.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from tests.benchmarks.bench_real import judged, write_report
from tests.benchmarks.real.image_sets import SubsetLimits, find_sets, import_set
from tests.benchmarks.real.trial import Trial, TrialCache, warm_up
from tests.benchmarks.real.variants import BASELINE, EFFICIENTAD, VARIANTS, Variant
from tests.benchmarks.report import page_section

from blemish_core.detectors.efficientad.training.train import train
from blemish_core.platform.command_line import errors_as_exit_codes

app = typer.Typer(add_completion=False)

_CORES = 2
_PATCHCORE = (BASELINE, "default")


@app.command()
def measure(
    data: Annotated[Path, typer.Argument(help="Folder of sets in MVTec AD's layout.", exists=True)],
    minutes: Annotated[list[float], typer.Option(help="Time of a training, may be repeated.")] = [5.0],  # noqa: B006 - Typer needs a list and never changes it
    draws: Annotated[int, typer.Option(min=1, help="Number of seeds and training subsets.")] = 3,
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
    photographs: Annotated[
        Path | None, typer.Option(help="Folder of photographs for EfficientAD.", show_default="none")
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="Print the report only.")] = False,
) -> None:
    """Compare EfficientAD and PatchCore.

    Example: python -m tests.benchmarks.bench_efficientad data --minutes 5 --minutes 30
    """
    with errors_as_exit_codes():
        folders = find_sets(data, sets)
        limits = SubsetLimits(max_train, max_test_per_class)
        compared = [*(VARIANTS[name] for name in _PATCHCORE), *timed_variants(minutes)]
        warm_up()
        with page_section("bench_efficientad", "EfficientAD on a CPU", keep=not no_page) as report:
            trials: list[Trial] = []
            described: list[str] = []
            for folder in folders:
                with tempfile.TemporaryDirectory() as made:
                    images = import_set(folder, Path(made), limits)
                    used = images.train if max_train is None else min(images.train, max_train)
                    described.append(
                        f"{images.name} ({used} of {images.train} training images, "
                        f"{images.test} test images)"
                    )
                    trials += judged(
                        images, compared, range(draws), limits, TrialCache(cache), photographs=photographs
                    )
            write_report(report, trials, described, draws)


def timed_variants(minutes: Sequence[float]) -> list[Variant]:
    """Return EfficientAD with its solved start alone, and after so many minutes of two cores."""
    algorithm = replace(EFFICIENTAD, train=partial(train, now=time.process_time))
    start = Variant("efficientad, start alone", algorithm, {"max_steps": 1})
    return [
        start,
        *(
            Variant(f"efficientad, {each:g} min", algorithm, {"max_seconds": each * 60 * _CORES})
            for each in minutes
        ),
    ]


if __name__ == "__main__":
    app()
