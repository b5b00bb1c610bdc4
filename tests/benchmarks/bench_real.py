# SPDX-License-Identifier: Apache-2.0
"""Train and evaluate each variant of the detectors on each set of real images in a folder.

    python -m tests.benchmarks.bench_real DATA [--draws 3] [--variants NAME ...] [--cache FOLDER]

DATA holds one folder for each set, in MVTec AD's layout. A draw is a seed of the training with a random
subset of the training images. All variants get the same draws and the same test images. The measured code
is the product's own: detectors of the registry, their calibration, and the evaluation of jobs.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from tests.benchmarks.real.anomalib_reference import ANOMALIB
from tests.benchmarks.real.comparison import VariantComparison
from tests.benchmarks.real.image_sets import ImageSet, SubsetLimits, find_sets, import_set
from tests.benchmarks.real.tables import tables
from tests.benchmarks.real.trial import Trial, TrialCache, run_trial, warm_up
from tests.benchmarks.real.variants import BASELINE, VARIANTS, Variant
from tests.benchmarks.report import Report, page_section

from blemish_core.imaging.frame_mask import FrameMask
from blemish_core.platform.command_line import errors_as_exit_codes
from blemish_core.platform.errors import InvalidRequest, NotFound

app = typer.Typer(add_completion=False)

_PROGRESS_S = 20.0


@app.command()
def measure(
    data: Annotated[Path, typer.Argument(help="Folder of sets in MVTec AD's layout.", exists=True)],
    draws: Annotated[int, typer.Option(min=1, help="Number of seeds and training subsets.")] = 3,
    sets: Annotated[
        list[str], typer.Option(help="Set to measure, may be repeated.", show_default="all")
    ] = [],  # noqa: B006 - Typer needs a list and never changes it
    variants: Annotated[
        list[str], typer.Option(help="Variant to measure, may be repeated.", show_default="all")
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
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for all raw figures.", show_default="none")
    ] = None,
    masks: Annotated[
        list[str],
        typer.Option(
            "--mask",
            metavar="SET=PNG",
            help="Also judge this set with a mask, white where to look; may be repeated.",
            show_default="none",
        ),
    ] = [],  # noqa: B006
    no_page: Annotated[bool, typer.Option("--no-page", help="Print the report only.")] = False,
) -> None:
    """Compare the variants of detectors on real images.

    Example: python -m tests.benchmarks.bench_real data --draws 3 --cache judged
    """
    with errors_as_exit_codes():
        chosen = chosen_variants(variants)
        folders = find_sets(data, sets)
        limits = SubsetLimits(max_train, max_test_per_class)
        masks_of = read_masks(masks, [folder.name for folder in folders])
        warm_up()
        with page_section("bench_real", "Real images", keep=not no_page) as report:
            trials: list[Trial] = []
            described: list[str] = []
            for folder in folders:
                with tempfile.TemporaryDirectory() as made:
                    images = import_set(folder, Path(made), limits)
                    versions = [images, *(images.masked(mask) for mask in masks_of.get(folder.name, ()))]
                    for each in versions:
                        described.append(_description(each, limits))
                        trials += judged(
                            each, chosen, range(draws), limits, TrialCache(cache), photographs=photographs
                        )
                if json_file is not None:
                    json_file.write_text(json.dumps([each.model_dump() for each in trials]) + "\n")
            write_report(report, trials, described, draws)


def chosen_variants(names: Sequence[str]) -> list[Variant]:
    """Return the variants of these names, all if there are none, in the order of the table.

    Raises:
        NotFound: if a variant does not exist.
    """
    if missing := [name for name in names if name not in VARIANTS]:
        raise NotFound(f"there is no variant {', '.join(missing)}; choose among {', '.join(VARIANTS)}")
    return [variant for name, variant in VARIANTS.items() if not names or name in names]


def read_masks(options: Sequence[str], sets: Sequence[str]) -> dict[str, list[FrameMask]]:
    """Return the masks of sets from options ``SET=PNG``.

    Raises:
        NotFound: if an option names a set that is not measured.
        InvalidRequest: if the file cannot be read or is not a mask.
    """
    found: dict[str, list[FrameMask]] = {}
    for option in options:
        name, _, file = option.partition("=")
        if name not in sets:
            raise NotFound(f"--mask names the set {name!r}; choose among {', '.join(sets)}")
        try:
            found.setdefault(name, []).append(FrameMask.from_png(Path(file).read_bytes()))
        except OSError as error:
            raise InvalidRequest(f"cannot read the mask {file!r}: {error.strerror}") from error
    return found


def judged(
    images: ImageSet,
    variants: Sequence[Variant],
    draws: Sequence[int],
    limits: SubsetLimits,
    cache: TrialCache,
    *,
    photographs: Path | None = None,
) -> list[Trial]:
    """Return the trials of all variants and draws on one set, from the cache if it has them."""
    for reason in images.skipped:
        _log(f"{images.name}: {reason}")
    trials = []
    # The outside reference has no masks.
    able = [each for each in variants if images.mask is None or each.algorithm is not ANOMALIB]
    for draw in draws:
        for variant in able:
            trial = cache.find(variant, images, draw, limits)
            source = "from the cache"
            if trial is None:
                clock = _Progress(f"{images.name}, {variant.name}, draw {draw}")
                trial = run_trial(
                    variant,
                    images,
                    draw,
                    limits,
                    photographs=photographs,
                    report_phase=clock.report,
                    warn=clock.warn,
                )
                cache.add(trial, variant, images, limits)
                source = f"{clock.spent_s:.0f} s"
            auroc = trial.figures["image_auroc"]
            shown = "-" if auroc is None else f"{auroc:.3f}"
            _log(f"{images.name}, {variant.name}, draw {draw}: image AUROC {shown} ({source})")
            trials.append(trial)
    return trials


def write_report(report: Report, trials: Sequence[Trial], described: Sequence[str], draws: int) -> None:
    """Write the sets and the tables."""
    report.write(f"Sets, each with {draws} draws:\n")
    for each in described:
        report.write(f"- {each}")
    report.write("")
    for line in tables(VariantComparison(trials), BASELINE):
        report.write(line)


def _description(images: ImageSet, limits: SubsetLimits) -> str:
    train = images.train if limits.train is None else min(images.train, limits.train)
    ignored = "" if images.mask is None else f", {images.mask.ignored_share:.0%} of the pixels ignored"
    return f"{images.name} ({train} of {images.train} training images, {images.test} test images{ignored})"


class _Progress:
    """A log of the phase of a trial, at intervals."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._began_s = self._logged_s = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began_s

    def warn(self, text: str) -> None:
        _log(f"{self._name}: {text}")

    def report(self, phase: str) -> None:
        if time.monotonic() - self._logged_s >= _PROGRESS_S:
            self._logged_s = time.monotonic()
            _log(f"{self._name}: {phase} after {self.spent_s:.0f} s")


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    app()
