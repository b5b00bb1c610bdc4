# SPDX-License-Identifier: Apache-2.0
"""Measure what the memory bank's search costs per PatchCore frame, and its errors.

    python -m tests.benchmarks.bench_neighbours [--data FOLDER] [--threads 1]

The same frames go three ways, in turn in one process: through the backbone alone on OpenVINO, through all
distances as anomalib's model computes them, and through blemish's search. Patch errors are relative to all
distances in double precision. OpenMP's idle threads sleep, as they do in the server. A lane of the server
has one core, which is ``--threads 1``.
"""

import argparse
import itertools
import os
import random
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import openvino
import torch
from tests.benchmarks.report import parser, section
from tests.support.patches import patch_features
from torch import Tensor

from blemish_client.demo.surfaces import generate
from blemish_core.detectors.base import Image
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.coreset import greedy_coreset
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.evaluation.metrics import image_auroc
from blemish_core.imaging.decode import decode
from blemish_core.platform import threads

BANKS = (2_800, 10_000, 28_000)
SETTINGS = PatchCoreSettings()


class Openvino:
    """The network on OpenVINO in single precision, for one image at a time."""

    name = "openvino"
    bytes = 0

    def __init__(self, detector: TrainablePatchCore) -> None:
        shape = (1, 3, detector.input_size, detector.input_size)
        with warnings.catch_warnings():
            # OpenVINO converts with torch.jit.trace, which torch 2.14 deprecates.
            warnings.simplefilter("ignore")
            model = openvino.convert_model(detector.network, example_input=torch.zeros(shape))
        model.reshape(shape)
        self._compiled = openvino.compile_model(
            model,
            "CPU",
            {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()},
        )

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return (torch.from_numpy(self._compiled([images.numpy()])[0].copy()),)


def anomalib_frame(detector: TrainablePatchCore, image: Tensor) -> tuple[float, Tensor]:
    """Return score and map of an input (1, 3, S, S), as ``PatchcoreModel.forward`` computes them."""
    features, grid = patch_features(detector, [image])
    model, patches = detector._torch.model, features[0].contiguous()
    distances, rows = (found[None] for found in model.nearest_neighbors(patches, n_neighbors=1))
    score = model.compute_anomaly_score(distances, rows, patches)
    side = detector.input_size
    return float(score), model.anomaly_map_generator(distances.reshape(1, 1, *grid), (side, side))


def exact_distances(patches: Tensor, bank: Tensor) -> Tensor:
    """Return the distances (P,) of patches (P, D) to the nearest entries of ``bank`` (N, D), float64."""
    patches, bank = patches.double(), bank.double()
    parts = [bank[start : start + 2_000] for start in range(0, len(bank), 2_000)]
    return torch.stack([torch.cdist(patches, part).amin(1) for part in parts]).amin(0)


def images(folder: Path, train: int, test: int) -> tuple[list[Path], list[Path], list[Path]]:
    """Return a fixed choice of good training images, good test images and defective test images."""

    def some(files: Sequence[Path], most: int) -> list[Path]:
        return random.Random(0).sample(sorted(files), min(most, len(files)))

    learned = some(list((folder / "train" / "good").iterdir()), train)
    good = some(list((folder / "test" / "good").iterdir()), test)
    classes = [path for path in sorted((folder / "test").iterdir()) if path.name != "good"]
    bad = [file for path in classes for file in some(list(path.iterdir()), -(-test // len(classes)))]
    return learned, good, bad


def timed(call: Callable[[], object]) -> float:
    """Return the duration of ``call``, in milliseconds."""
    before = time.perf_counter()
    call()
    return (time.perf_counter() - before) * 1e3


def bench(
    detector: TrainablePatchCore, bank: Tensor, good: list[Tensor], bad: list[Tensor], rounds: int
) -> str:
    """Return one row of the table."""
    load_ms = timed(lambda: detector.set_memory_bank(bank))
    detector.find_supports()  # done once per training, and part of the bundle
    frames = itertools.cycle(good + bad)
    times: dict[str, list[float]] = {"backbone": [], "anomalib": [], "ours": []}
    for turn in range(rounds + 2):
        frame = next(frames)
        ways: dict[str, Callable[[Tensor], object]] = {
            "backbone": lambda frame: patch_features(detector, [frame]),
            "ours": lambda frame: detector.predict([frame]),
            "anomalib": lambda frame: anomalib_frame(detector, frame),
        }
        for name, way in ways.items():
            way(frame)  # fills the caches, which all distances have emptied
            took = timed(partial(way, frame))
            if turn >= 2:  # the first two are warm-up
                times[name].append(took)

    theirs, ours, score_errors, map_errors, patch_errors = [], [], [], [], []
    for frame in good + bad:
        score, their_map = anomalib_frame(detector, frame)
        (prediction,) = detector.predict([frame])
        features, _ = patch_features(detector, [frame])
        patches = features[0].contiguous()
        nearest = detector._bank.nearest(patches)
        exact = exact_distances(patches, bank)
        patch_errors.append(nearest.distances / exact - 1)
        map_errors.append((torch.from_numpy(prediction.anomaly_map) / their_map[0, 0] - 1).abs().flatten())
        score_errors.append(abs(prediction.score / score - 1))
        theirs.append(score)
        ours.append(prediction.score)
    pixels, patch = torch.cat(map_errors), torch.cat(patch_errors)
    backbone, brute, fast = (median(times[name]) for name in ("backbone", "anomalib", "ours"))
    least, least_brute, least_fast = (min(times[name]) for name in ("backbone", "anomalib", "ours"))
    auroc = [image_auroc(scores[: len(good)], scores[len(good) :]) for scores in (theirs, ours)]
    return (
        f"| {len(bank):,} | {backbone:.1f} | {brute:.1f} ({brute / backbone:.1f}x) "
        f"| {fast:.1f} (**{fast / backbone:.2f}x**) "
        f"| {least:.1f}, {least_brute:.1f}, {least_fast:.1f} (**{least_fast / least:.2f}x**) "
        f"| {max(score_errors):.1e} | {pixels.mean():.2%}, {pixels.max():.1%} "
        f"| {patch.mean():.2%}, {patch.max():.1%} "
        f"| {auroc[0]:.4f}, {auroc[1]:.4f} | {load_ms:.0f} "
        f"| {bank.nbytes / 2**20:.1f} + {(detector._bank.bytes - bank.nbytes) / 2**20:.1f} |"
    )


def main() -> None:
    if "OMP_WAIT_POLICY" not in os.environ:
        threads.use_passive_waiting()  # takes effect only before torch is loaded, so start again
        os.execv(sys.executable, sys.orig_argv)
    options = parser(__doc__)
    options.add_argument(
        "--data", type=Path, help="a dataset in MVTec AD's layout; default: synthetic tiles"
    )
    options.add_argument("--bank", type=Path, help="file (.pt) to keep the coreset in, or to read it from")
    options.add_argument("--train", type=int, default=48, help="good training images")
    options.add_argument("--test", type=int, default=30, help="good and as many defective test images")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--rounds", type=int, default=40, help="frames to time")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.data
        if folder is None:
            folder = Path(made) / "tile"
            generate(folder, "tile", train=arguments.train, good=arguments.test, defective=arguments.test)
        run(folder, arguments)


def read(file: Path) -> Image:
    return decode(file.read_bytes())


def run(folder: Path, arguments: argparse.Namespace) -> None:
    detector = TrainablePatchCore(SETTINGS)
    detector.load_pretrained(Path("none"))
    learned, good, bad = images(folder, arguments.train, arguments.test)

    def prepared(files: list[Path]) -> list[Tensor]:
        return [detector.prepare(read(file)) for file in files]

    with torch.inference_mode():
        if arguments.bank and arguments.bank.exists():
            picked = torch.load(arguments.bank, weights_only=True)
        else:
            features = torch.cat([patch_features(detector, [image])[0] for image in prepared(learned)])
            patches = features.flatten(0, 1)
            # Farthest-first: the smaller coresets are the beginnings of the largest.
            picked = patches[greedy_coreset(patches, min(max(BANKS), len(patches)), 0)]
            if arguments.bank:
                torch.save(picked, arguments.bank)
        detector.run_on(Openvino(detector))
        good_inputs, bad_inputs = prepared(good), prepared(bad)
        with section("bench_neighbours", "Memory bank", arguments) as report:
            report.write(
                f"{folder.name}: {len(learned)} training images, {len(good)} good and {len(bad)} defective "
                f"test images, {torch.get_num_threads()} threads, medians of {arguments.rounds}, ms.\n"
            )
            report.write(
                "| bank | backbone | all distances | blemish | fastest of each "
                "| worst score error | map error: mean, worst "
                "| patch error: mean, worst | AUROC: all distances, blemish "
                "| load, ms | bank + index, MiB |\n"
                "|---|---|---|---|---|---|---|---|---|---|---|"
            )
            for size in BANKS:
                if size <= len(picked):
                    bank = picked[:size].clone()
                    report.write(bench(detector, bank, good_inputs, bad_inputs, arguments.rounds))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    print(f"\nPeak memory of the process, coreset and double-precision check included: {peak >> 10} MiB")


if __name__ == "__main__":
    main()
