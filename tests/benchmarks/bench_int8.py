# SPDX-License-Identifier: Apache-2.0
"""Compare PatchCore in INT8 with float32 on real images: accuracy by set, and the parts of a frame's time.

    python -m tests.benchmarks.bench_int8 DATA [--sets NAME ...] [--draws 3] [--max-train 60] [--rounds 15]

DATA holds one folder for each set, in MVTec AD's layout. Each draw is a seed of the training with a random
subset of the training images. Training, quantization, the decision to publish, calibration and evaluation
are those of jobs. The time of a frame is measured on one thread, float32 and INT8 in turn.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, median

import cv2
import torch
from safetensors.torch import load_file
from tests.benchmarks.real.image_sets import (
    DATASET,
    ImageSet,
    SubsetLimits,
    find_sets,
    import_set,
    training_subset,
)
from tests.benchmarks.report import Report, parser, section

from blemish_core.calibration import DEFAULT_FALSE_REJECT_RATE, Calibration
from blemish_core.datasets.reading import ImageReader
from blemish_core.detectors.base import (
    Image,
    ReadImage,
    Runtime,
    TrainingContext,
    TrainingResult,
    silent,
)
from blemish_core.detectors.patchcore.detector import PatchCore
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.registry import ALGORITHMS
from blemish_core.evaluation.evaluate import ImageSource, evaluate
from blemish_core.evaluation.metrics import GOOD, Metrics
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.handlers.export import (
    ImageSplits,
    export_openvino,
    export_retrained_int8,
    faster_runtime,
)
from blemish_core.models.bundle import OPENVINO
from blemish_core.runtimes.card import RuntimeCard
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.runtimes.openvino_runtime import OpenVinoRuntime

SIZE = 256
BANK = 10_000
_PATCHCORE = ALGORITHMS["patchcore"]
_TIMED_FRAMES = 16
_PARTS = ("frame", "preparation", "network", "search", "rest")
_CPU_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")


@dataclass(frozen=True)
class Draw:
    """The figures of one training."""

    f32: Metrics
    int8: Metrics | None
    """None if INT8 is not published."""
    card: RuntimeCard


@dataclass(frozen=True)
class Trained:
    """A detector in both runtimes, on one thread."""

    f32: PatchCore
    int8: PatchCore | None
    calibration: Calibration
    card: RuntimeCard


def trained(
    settings: PatchCoreSettings,
    reads: Sequence[ReadImage],
    splits: ImageSplits,
    draw: int,
    images: ImageSet,
) -> Trained:
    """Train, export and quantize as a job does; the test images are those of ``splits``."""
    resources = TrainingContext(
        weights=images.folder / "weights",
        seed=draw,
        target_false_reject_rate=DEFAULT_FALSE_REJECT_RATE,
        progress=silent,
        fast_runtime=partial(faster_runtime, "cpu", RuntimeChoice(threads=1)),
    )

    def retrain(runtime: Runtime) -> TrainingResult:
        return _PATCHCORE.train(
            settings, reads, replace(resources, fast_runtime=lambda network, input_size: runtime)
        )

    training = _PATCHCORE.train(settings, reads, resources)
    detector, held_out = training.detector, training.held_out_scores
    assert isinstance(detector, PatchCore)
    calibration = Calibration.of(held_out.scores, held_out.map_maxima, DEFAULT_FALSE_REJECT_RATE)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / OPENVINO).mkdir()
        exported = export_openvino(training, splits, folder, draw, silent)
        f32 = OpenVinoRuntime(folder / str(exported.file), threads=1)
        detector.run_on(f32)
        auroc = _metrics(detector, calibration, images).image_auroc if splits.defective else None
        card = export_retrained_int8(training, splits, auroc, folder, draw, silent, retrain)
        if card.file is None or card.tensors is None:
            return Trained(detector, None, calibration, card)
        tensors = detector.tensors() | load_file(folder / card.tensors)
        int8 = PatchCore.load(detector.settings, tensors)
        int8.run_on(OpenVinoRuntime(folder / card.file, name="openvino-int8", threads=1))
    return Trained(detector, int8, calibration, card)


def measured(images: ImageSet, draw: int, limits: SubsetLimits) -> Draw:
    """Train on a subset of a set and evaluate both runtimes on its test images."""
    stored = images.store.images(DATASET, "train")
    reader = ImageReader(images.store, ImageLimits(), stored)
    chosen = training_subset(len(stored), draw, limits)
    reads: list[ReadImage] = [partial(reader.read_strict, stored[number]) for number in chosen]
    both = trained(PatchCoreSettings(), reads, _splits(images, reads), draw, images)
    int8 = None
    if both.int8 is not None and both.card.held_out is not None:
        held_out = both.card.held_out
        own = Calibration.of(held_out.scores, held_out.map_maxima, DEFAULT_FALSE_REJECT_RATE)
        int8 = _metrics(both.int8, own, images)
    return Draw(_metrics(both.f32, both.calibration, images), int8, both.card)


def _metrics(detector: PatchCore, calibration: Calibration, images: ImageSet) -> Metrics:
    source = ImageSource(images.store, ImageLimits(), DATASET)
    evaluation = evaluate(detector, calibration, source, "cpu", silent, lambda text: None)
    assert evaluation is not None  # an imported set has test images
    return evaluation.metrics


def _splits(images: ImageSet, reads: Sequence[ReadImage]) -> ImageSplits:
    stored = images.store.images(DATASET, "test")
    reader = ImageReader(images.store, ImageLimits(), stored)
    good = [partial(reader.read_strict, each) for each in stored if each.class_name == GOOD]
    defective = [partial(reader.read_strict, each) for each in stored if each.class_name != GOOD]
    return ImageSplits(reads, good, defective)


def timed(both: Trained, frames: Sequence[Image], rounds: int) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of each part of a frame, by runtime."""
    assert both.int8 is not None
    detectors = {"float32": both.f32, "INT8": both.int8}
    times: dict[str, dict[str, list[float]]] = {name: {part: [] for part in _PARTS} for name in detectors}
    for number in range(rounds + 1):
        for name, detector in detectors.items():
            for part, taken in _parts(detector, frames).items():
                if number:  # the first is warm-up
                    times[name][part].append(taken)
    return {name: {part: median(each) for part, each in parts.items()} for name, parts in times.items()}


def _parts(detector: PatchCore, frames: Sequence[Image]) -> dict[str, float]:
    """Return the mean milliseconds of each part over some frames."""
    inputs = [detector.prepare(frame) for frame in frames]
    patches = detector.patches(inputs)
    with torch.inference_mode():
        parts = {
            "frame": _mean_ms([partial(_score, detector, frame) for frame in frames]),
            "preparation": _mean_ms([partial(detector.prepare, frame) for frame in frames]),
            "network": _mean_ms([partial(detector.runtime, each[None]) for each in inputs]),
            "search": _mean_ms([partial(detector.measure, each) for each in patches]),
        }
    return parts | {"rest": 2 * parts["frame"] - sum(parts.values())}


def _score(detector: PatchCore, frame: Image) -> None:
    detector.predict([detector.prepare(frame)])


def _mean_ms(calls: Sequence[Callable[[], object]]) -> float:
    began = time.perf_counter()
    for call in calls:
        call()
    return 1000 * (time.perf_counter() - began) / len(calls)


def write_accuracy(report: Report, draws: Mapping[str, Sequence[Draw]]) -> None:
    report.write(
        "| set | published | image AUROC float32 | INT8 | AUPRO float32 | INT8 | detected float32 | INT8 | "
        "false rejects float32 | INT8 |\n|---|---:|" + "---:|" * 8
    )
    for name, several in draws.items():
        published = sum(each.card.file is not None for each in several)
        cells = [f"{published} of {len(several)}"]
        cells += [_pair(several, "image_auroc", ".4f"), _pair(several, "aupro", ".4f")]
        cells += [_pair(several, "detection_rate", ".1%"), _pair(several, "false_reject_rate", ".1%")]
        report.write(f"| {name} | {' | '.join(cells)} |")
    refused = [
        f"- {name}: {each.card.refusal}"
        for name, several in draws.items()
        for each in several
        if each.card.file is None
    ]
    report.write("\nMeans over the draws that are published.")
    if refused:
        report.write("\nNot published:\n")
        for line in refused:
            report.write(line)


def _pair(draws: Sequence[Draw], figure: str, form: str) -> str:
    """Return two cells: the mean of a figure in float32 and in INT8, over the published draws."""
    pairs = [
        (getattr(each.f32, figure), getattr(each.int8, figure)) for each in draws if each.int8 is not None
    ]
    pairs = [(one, other) for one, other in pairs if one is not None and other is not None]
    if not pairs:
        return "- | -"
    return f"{mean(one for one, _ in pairs):{form}} | {mean(other for _, other in pairs):{form}}"


def write_times(report: Report, times: Mapping[str, Mapping[str, float]], rounds: int) -> None:
    report.write(
        f"\nMilliseconds of a frame of {SIZE} px at a bank of {BANK:,} on one thread, medians of {rounds} "
        f"interleaved rounds of {_TIMED_FRAMES} frames. CPU flags: {', '.join(cpu_flags())}.\n"
    )
    report.write(f"| | {' | '.join(_PARTS)} | search / network |\n|---|{'---:|' * (len(_PARTS) + 1)}")
    for name, parts in times.items():
        cells = [f"{parts[part]:.2f}" for part in _PARTS] + [f"{parts['search'] / parts['network']:.2f}"]
        report.write(f"| {name} | {' | '.join(cells)} |")
    ratio = times["INT8"]["frame"] / times["float32"]["frame"]
    report.write(f"\nA frame in INT8 takes {ratio:.2f} of the time in float32.")


def cpu_flags() -> list[str]:
    """Return the instruction sets of this machine that decide the gain of INT8."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.exists() else set()
    return [flag for flag in _CPU_FLAGS if flag in words]


def frames_of(folder: Path, limits: SubsetLimits, rounds: int) -> dict[str, dict[str, float]]:
    """Return the times of a detector of a set, whose bank has ``BANK`` entries."""
    with tempfile.TemporaryDirectory() as made:
        images = import_set(folder, Path(made), limits)
        stored = images.store.images(DATASET, "train")
        reader = ImageReader(images.store, ImageLimits(), stored)
        chosen = training_subset(len(stored), 0, limits)
        reads: list[ReadImage] = [partial(reader.read_strict, stored[number]) for number in chosen]
        settings = PatchCoreSettings(input_size=SIZE, coreset_ratio=0.5, max_entries=BANK)
        # No defective test images, so that INT8 is measured on altered good ones.
        both = trained(settings, reads, ImageSplits(reads, [], []), 0, images)
        frames = [read() for read in _splits(images, reads).defective[:_TIMED_FRAMES]]
        return timed(both, frames, rounds)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("data", type=Path, help="folder of sets in MVTec AD's layout")
    options.add_argument("--sets", nargs="*", default=[], help="sets to measure, all by default")
    options.add_argument("--draws", type=int, default=3, help="seeds and training subsets of each set")
    options.add_argument("--max-train", type=int, default=60, help="most training images of a draw")
    options.add_argument("--max-test-per-class", type=int, default=30)
    options.add_argument("--timed-set", default="fabric_tiles", help="set of the timed frames")
    options.add_argument("--rounds", type=int, default=15)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    limits = SubsetLimits(arguments.max_train, arguments.max_test_per_class)
    with section("bench_int8", "PatchCore in INT8", arguments) as report:
        draws: dict[str, list[Draw]] = {}
        for folder in find_sets(arguments.data, arguments.sets):
            with tempfile.TemporaryDirectory() as made:
                images = import_set(folder, Path(made), limits)
                draws[folder.name] = [measured(images, draw, limits) for draw in range(arguments.draws)]
        write_accuracy(report, draws)
        (timed_set,) = find_sets(arguments.data, [arguments.timed_set])
        write_times(report, frames_of(timed_set, limits, arguments.rounds), arguments.rounds)


if __name__ == "__main__":
    main()
