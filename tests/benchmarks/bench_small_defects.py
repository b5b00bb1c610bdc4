# SPDX-License-Identifier: Apache-2.0
"""Find small scratches drawn into large frames of a real surface.

    python -m tests.benchmarks.bench_small_defects DATA [--surface NAME] [--defect 6] [--test 20]

A frame of 2448 x 2048 px shows a part of one good photograph, turned and mirrored to fill the frame. It has
camera noise and a random gain. DATA is a folder of sets in MVTec AD's layout. PatchCore learns
with ``smallest_defect`` and judges good frames and frames with one scratch or dot at its own threshold. An
anomaly counts as located if the map's maximum lies within 100 px of the defect's centre. The time of a
frame is compared with that of one input of 256 px, both on one thread.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import cv2
import numpy as np
import torch
import typer
from tests.benchmarks.report import Report, page_section

from blemish_core.calibration import DEFAULT_FALSE_REJECT_RATE, Calibration
from blemish_core.detectors.base import Detector, Image, TrainingContext, running_on, silent
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.train import train
from blemish_core.imaging.decode import decode
from blemish_core.jobs.handlers.export import faster_runtime
from blemish_core.runtimes.choice import RuntimeChoice

_HEIGHT, _WIDTH = 2048, 2448
_LANE = RuntimeChoice(threads=1)
_NEAR_PX = 100
_NOISE, _GAIN = 2.0, 0.05
_TIMED = 7


def frame(photographs: Sequence[Image], seed: int) -> Image:
    """Return a frame (2048, 2448, 3) of one photograph."""
    random = np.random.default_rng(seed)
    photograph = np.rot90(photographs[int(random.integers(len(photographs)))], int(random.integers(4)))
    if random.random() < 0.5:
        photograph = photograph[:, ::-1]
    side = round(0.8 * min(photograph.shape[:2]))
    top, left = (int(random.integers(length - side + 1)) for length in photograph.shape[:2])
    part = photograph[top : top + side, left : left + side]
    pair = np.hstack([part, part[:, ::-1]])
    cell = np.vstack([pair, pair[::-1]])
    repeats = -(-_HEIGHT // len(cell)), -(-_WIDTH // cell.shape[1]), 1
    whole = np.tile(cell, repeats)[:_HEIGHT, :_WIDTH]
    noise = random.normal(0, _NOISE, (_HEIGHT, _WIDTH, 1))
    pixels: Image = (whole * random.uniform(1 - _GAIN, 1 + _GAIN) + noise).clip(0, 255).astype(np.uint8)
    return pixels


def scratched(
    photographs: Sequence[Image], seed: int, width: int, length: int, grey: int
) -> tuple[Image, tuple[int, int]]:
    """Return a frame with a straight scratch, and the row and column of its centre."""
    random = np.random.default_rng((seed, 1))
    angle = random.uniform(0, np.pi)
    row, column = int(random.integers(200, _HEIGHT - 200)), int(random.integers(200, _WIDTH - 200))
    across, down = np.cos(angle) * length / 2, np.sin(angle) * length / 2
    drawn = np.zeros((_HEIGHT, _WIDTH), np.uint8)
    begin, end = (round(column - across), round(row - down)), (round(column + across), round(row + down))
    cv2.line(drawn, begin, end, (255,), width, cv2.LINE_AA)
    share = (drawn / 255.0)[..., None]
    pixels: Image = (frame(photographs, seed) * (1 - share) + grey * share).astype(np.uint8)
    return pixels, (row, column)


def measure(
    data: Annotated[Path, typer.Argument(help="Folder of sets in MVTec AD's layout.", exists=True)],
    surface: Annotated[str, typer.Option(help="Set whose good images are used.")] = "mvtec_leather_subset",
    defect: Annotated[int, typer.Option(min=1, help="Width of the scratches in px.")] = 6,
    train_frames: Annotated[int, typer.Option("--train", min=2, help="Good training frames.")] = 40,
    test: Annotated[int, typer.Option(min=1, help="Frames of each kind.")] = 20,
    no_page: Annotated[bool, typer.Option("--no-page", help="Print the report only.")] = False,
) -> None:
    """Measure detection, false rejects and time."""
    torch.set_num_threads(1)
    files = sorted((data / surface).glob("*/good/*"))
    photographs = [decode(file.read_bytes()) for file in files]
    with page_section("bench_small_defects", "Small defects in large frames", keep=not no_page) as report:
        plans: list[str] = []
        began = time.perf_counter()
        result = train(
            PatchCoreSettings(smallest_defect=defect),
            [partial(frame, photographs, seed) for seed in range(train_frames)],
            TrainingContext(
                Path("nowhere"),
                0,
                DEFAULT_FALSE_REJECT_RATE,
                silent,
                fast_runtime=partial(faster_runtime, "cpu", _LANE),
                announce=plans.append,
            ),
        )
        report.write(f"{len(photographs)} photographs of {surface}; {train_frames} training frames.\n")
        report.write(f"```text\n{plans[0]}\n```\n")
        report.write(f"The training took {time.perf_counter() - began:.0f} s.\n")
        scores = result.held_out_scores
        threshold = Calibration.of(scores.scores, scores.map_maxima, DEFAULT_FALSE_REJECT_RATE).threshold
        detector = result.detector
        with running_on(detector, faster_runtime("cpu", _LANE, detector.network, detector.network_size)):
            _report(report, detector, threshold, photographs, defect, test)


def _report(
    report: Report,
    detector: Detector,
    threshold: float,
    photographs: Sequence[Image],
    defect: int,
    test: int,
) -> None:
    kinds = (
        (f"black scratch, {defect} x {5 * defect} px", defect, 5 * defect, 0),
        (f"black scratch, {defect} x {25 * defect} px", defect, 25 * defect, 0),
        (f"dark grey scratch, {defect} x {17 * defect} px", defect, 17 * defect, 60),
        (f"black dot of {2 * defect} px", 2 * defect, 1, 0),
    )
    report.write("| frames | rejected | located |")
    report.write("|---|---|---|")
    good = [detector.predict([detector.prepare(frame(photographs, 10_000 + n))])[0] for n in range(test)]
    report.write(f"| good | {sum(each.score > threshold for each in good)} of {test} | |")
    for name, width, length, grey in kinds:
        rejected = located = 0
        for number in range(test):
            image, (row, column) = scratched(photographs, 20_000 + number, width, length, grey)
            (found,) = detector.predict([detector.prepare(image)])
            rejected += found.score > threshold
            peak = np.unravel_index(found.anomaly_map.argmax(), found.anomaly_map.shape)
            px = _HEIGHT / found.anomaly_map.shape[0]
            located += abs(peak[0] * px - row) < _NEAR_PX and abs(peak[1] * px - column) < _NEAR_PX
        report.write(f"| {name} | {rejected} of {test} | {located} of {test} |")
    image = frame(photographs, 30_000)
    small = torch.randn(3, 256, 256)
    frame_ms, input_ms = _medians_ms(
        lambda: detector.predict([detector.prepare(image)]), lambda: detector.predict([small])
    )
    report.write(
        f"\nA frame takes {frame_ms:.0f} ms, an input of 256 px {input_ms:.1f} ms: "
        f"{frame_ms / input_ms:.1f} times as long (medians of {_TIMED}, in turn, one thread)."
    )


def _medians_ms(*calls: Callable[[], object]) -> list[float]:
    """Return the median time of each call, measured in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(_TIMED + 1):
        for call, spent in zip(calls, times, strict=True):
            began = time.perf_counter()
            call()
            if repeat > 0:  # the first allocates memory
                spent.append(time.perf_counter() - began)
    return [1000 * median(spent) for spent in times]


if __name__ == "__main__":
    typer.run(measure)
