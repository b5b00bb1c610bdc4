# SPDX-License-Identifier: Apache-2.0
"""Compare ways to choose PatchCore's threshold on real images.

    python -m tests.benchmarks.bench_thresholds DATA [--images 24] [--images 60] [--draws 8]

DATA holds one folder for each set, in MVTec AD's layout. The good images of both splits are pooled without
copies, so that training images and unseen ones differ by chance only. Each draw trains on a random subset
and scores unseen good images and defective ones. The product's rule is the order statistic.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated
from unittest.mock import patch

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy.stats import t as student_t
from tests.benchmarks.real.image_sets import find_sets
from tests.benchmarks.report import Report, page_section

from blemish_core.calibration import Calibration
from blemish_core.detectors.base import Detector, Image, ReadImage, TrainingContext, silent
from blemish_core.detectors.common.copies import find_copies
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training import train as patchcore
from blemish_core.platform.command_line import errors_as_exit_codes

app = typer.Typer(add_completion=False)

Scores = NDArray[np.float64]
Rule = Callable[[Scores, float], float]
"""Returns a threshold from scores of held-out images and a target rate."""

TARGETS = (*np.arange(1, 20) * 0.005, *np.arange(4, 17) * 0.025)
COMPARED_RATE = 0.05
_RESAMPLED = 1000
_ODD_DEVIATIONS = 6.0
_UNREACHABLE = 10**9  # pieces


def order_statistic(scores: Scores, target: float) -> float:
    """Return the product's threshold."""
    return Calibration.of(scores.tolist(), scores.tolist(), target).threshold


def normal_tail(scores: Scores, target: float) -> float:
    """Return the upper limit of a prediction interval for normally distributed logarithms of scores."""
    logs, count = np.log(np.maximum(scores, 1e-12)), len(scores)
    width = student_t.ppf(1 - target, count - 1) * np.sqrt(1 + 1 / count)
    return float(np.exp(logs.mean() + width * logs.std(ddof=1)))


def without_odd_images(scores: Scores, target: float) -> float:
    """Return the order statistic of the scores that are not far above their median."""
    deviation = 1.4826 * np.median(np.abs(scores - np.median(scores)))
    return order_statistic(scores[scores <= np.median(scores) + _ODD_DEVIATIONS * deviation], target)


RULES: Mapping[str, Rule] = {
    "order statistic": order_statistic,
    "normal tail": normal_tail,
    "without odd images": without_odd_images,
}
METHODS = {"held out": 0, "cross-calibration": _UNREACHABLE}
"""Number of pieces below which PatchCore cross-calibrates."""


@dataclass(frozen=True)
class Pool:
    """The images of a set."""

    name: str
    good: Sequence[ReadImage]
    defective: Sequence[ReadImage]


@dataclass(frozen=True)
class Draw:
    """Scores of one training."""

    calibration: Scores
    good: Scores
    """Scores of unseen good images."""
    defective: Scores

    def rates(self, rule: Rule, target: float) -> tuple[float, float]:
        """Return the shares of unseen good and of defective images that are rejected."""
        threshold = rule(self.calibration, target)
        return float((self.good > threshold).mean()), float((self.defective > threshold).mean())


@app.command()
def measure(
    data: Annotated[Path, typer.Argument(help="Folder of sets in MVTec AD's layout.", exists=True)],
    images: Annotated[
        list[int], typer.Option(min=4, help="Number of training images, may be repeated.")
    ] = [  # noqa: B006
        24,
        60,
    ],
    draws: Annotated[int, typer.Option(min=2, help="Number of trainings for each row.")] = 8,
    sets: Annotated[
        list[str], typer.Option(help="Set to measure, may be repeated.", show_default="all")
    ] = [],  # noqa: B006
    unseen: Annotated[int, typer.Option(min=1, help="Most unseen good and most defective images.")] = 60,
    no_page: Annotated[bool, typer.Option("--no-page", help="Print the report only.")] = False,
) -> None:
    """Compare held-out with cross-calibrated thresholds, and rules for their tails.

    Example: python -m tests.benchmarks.bench_thresholds data --images 24 --draws 4 --no-page
    """
    torch.set_num_threads(1)  # rounding does not depend on the machine's load
    with errors_as_exit_codes(), page_section("bench_thresholds", "Thresholds", keep=not no_page) as report:
        report.write(
            f"PatchCore with its default settings, {draws} draws, at most {unseen} unseen good and as many "
            "defective images.\n"
        )
        report.write(
            "| set | images | method | rule | rejected at 5 % | detected at 5 % "
            f"| detected at {COMPARED_RATE:.0%} really rejected |\n|---|---|---|---|---|---|---|"
        )
        differences: dict[tuple[str, str], list[Scores]] = {}
        for folder in find_sets(data, sets):
            pool = _pool(folder)
            for count in images:
                # A third of the pool at least is unseen.
                if count <= 2 * len(pool.good) // 3:
                    _compare(pool, count, draws, unseen, report, differences)
        report.write(
            "\nShares of images: means and standard deviations over draws. Detection at equal real "
            "rejects is interpolated between target rates, and proportional below the lowest rate that a "
            "method reaches.\n"
        )
        report.write(
            "| method | rule | detection at equal real rejects, difference from held out, order statistic "
            "|\n|---|---|---|"
        )
        for (method, rule), resampled in differences.items():
            mean = np.mean(resampled, axis=0)
            low, high = np.quantile(mean, [0.025, 0.975])
            report.write(f"| {method} | {rule} | {mean.mean():+.3f} ({low:+.3f} to {high:+.3f}) |")
        report.write("\nMeans over sets and numbers of images, with 95 % bootstrap intervals over draws.")


def _compare(
    pool: Pool,
    count: int,
    draws: int,
    unseen: int,
    report: Report,
    differences: dict[tuple[str, str], list[Scores]],
) -> None:
    """Write the rows of one set and number of images, and add resampled differences of detection."""
    drawn = {
        method: [_draw(pool, count, seed, unseen, below) for seed in range(draws)]
        for method, below in METHODS.items()
    }
    samples = np.random.default_rng(0).integers(draws, size=(_RESAMPLED, draws))
    reference: Scores | None = None
    for method, of in drawn.items():
        for name, rule in RULES.items():
            rates = np.array([[draw.rates(rule, target) for target in TARGETS] for draw in of])
            at = np.array([draw.rates(rule, COMPARED_RATE) for draw in of])
            (rejected, detected), (rejected_sd, detected_sd) = at.mean(axis=0), at.std(axis=0)
            report.write(
                f"| {pool.name} | {count} | {method} | {name} | {rejected:.1%}, sd {rejected_sd:.1%} "
                f"| {detected:.1%}, sd {detected_sd:.1%} | {_detected(rates.mean(axis=0)):.1%} |"
            )
            resampled = np.array([_detected(rates[sample].mean(axis=0)) for sample in samples])
            reference = resampled if reference is None else reference
            differences.setdefault((method, name), []).append(resampled - reference)


def _detected(rates: Scores) -> float:
    """Return the detection at ``COMPARED_RATE`` from mean rates (targets, 2) of rejects and detection."""
    rejected, detected = np.vstack([np.zeros(2), np.maximum.accumulate(rates)]).T
    return float(np.interp(COMPARED_RATE, rejected, detected))


def _draw(pool: Pool, count: int, seed: int, unseen: int, cross_calibrate_below: int) -> Draw:
    order = np.random.default_rng([seed, count]).permutation(len(pool.good))
    context = TrainingContext(Path("nowhere"), seed, COMPARED_RATE, silent)
    with patch.object(patchcore, "CROSS_CALIBRATE_BELOW", cross_calibrate_below):
        training = patchcore.train(
            PatchCoreSettings(), [pool.good[number] for number in order[:count]], context
        )
    score = partial(_scores, training.detector)
    return Draw(
        np.array(training.held_out_scores.scores),
        score([pool.good[number] for number in order[count : count + unseen]]),
        score(pool.defective[:: -(-len(pool.defective) // unseen)]),
    )


def _scores(detector: Detector, images: Sequence[ReadImage]) -> Scores:
    return np.array([detector.predict([detector.prepare(read())])[0].score for read in images])


def _pool(folder: Path) -> Pool:
    good = [partial(_read, file) for split in ("train", "test") for file in _files(folder / split / "good")]
    copies = {number for group in find_copies(good, silent) for number in group[1:]}
    defective = [
        partial(_read, file)
        for kind in sorted((folder / "test").iterdir())
        if kind.name != "good"
        for file in _files(kind)
    ]
    return Pool(folder.name, [read for number, read in enumerate(good) if number not in copies], defective)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


@cache
def _read(file: Path) -> Image:
    return np.array(PillowImage.open(file).convert("RGB"))


if __name__ == "__main__":
    app()
