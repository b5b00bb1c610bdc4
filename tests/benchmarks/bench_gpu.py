# SPDX-License-Identifier: Apache-2.0
"""Prove the CUDA path on a machine that has a GPU: parity with the CPU, batches, frames per second, memory.

    python -m tests.benchmarks.bench_gpu [--device cuda] [--quick] [--no-server]

PatchCore has the features of random images as its bank, and EfficientAD has random weights, which cost the
same as trained ones. Parity compares scores, anomaly maps and embeddings with torch on the CPU. Then a
model is trained on the device and served from there, with batches of up to 8 images. The exit code is 1 if
parity fails. With ``--device cpu --quick`` the script itself can be tried without a GPU.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import torch
from tests.benchmarks import bench_serving as serving
from tests.benchmarks.report import Report, parser, section
from tests.support.patches import patch_features
from torch import Tensor

from blemish_client import Client
from blemish_client.demo.surfaces import generate
from blemish_core.detectors.base import Detector, Image, Prediction
from blemish_core.detectors.efficientad.detector import EfficientAd
from blemish_core.detectors.efficientad.settings import EfficientAdSettings
from blemish_core.detectors.efficientad.training.trainable import TrainableEfficientAd
from blemish_core.detectors.patchcore.detector import PatchCore
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore

_LARGEST_DIFFERENCE = 5e-3
"""Largest relative difference of scores, maps and embeddings: that of published runtimes."""

Build = Callable[[str], Detector]


def random_image(seed: int, side: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def patchcore(bank: int, side: int) -> Build:
    """Return a function that loads one PatchCore with so many entries on a device."""
    trainable = TrainablePatchCore(PatchCoreSettings(input_size=side))
    trainable.load_pretrained(Path("nowhere"))
    with torch.inference_mode():
        parts: list[Tensor] = []
        while sum(map(len, parts)) < bank:
            image = random_image(1000 + len(parts), side)
            parts.append(patch_features(trainable, [trainable.prepare(image)])[0][0])
    trainable.set_memory_bank(torch.cat(parts)[:bank].clone())
    return partial(PatchCore.load, trainable.settings, trainable.tensors())


def efficientad(side: int) -> Build:
    """Return a function that loads one EfficientAD with random weights on a device."""
    torch.manual_seed(0)
    trainable = TrainableEfficientAd(EfficientAdSettings(input_size=side))
    trainable.model.mean_std["std"].data.fill_(1.0)
    ones = {"qa_st": 0.1, "qb_st": 1.0, "qa_ae": 0.1, "qb_ae": 1.0}
    trainable.measure_maps({name: torch.tensor(value) for name, value in ones.items()}, torch.tensor(1.0))
    return partial(EfficientAd.load, trainable.settings, trainable.tensors())


def differences(expected: Sequence[Prediction], found: Sequence[Prediction]) -> tuple[float, float, float]:
    """Return the largest relative difference of scores and maps, and the largest of embeddings."""
    scores = maps = embeddings = 0.0
    for one, other in zip(expected, found, strict=True):
        scores = max(scores, abs(other.score - one.score) / max(abs(one.score), 1e-9))
        scale = max(float(np.abs(one.anomaly_map).max()), 1e-9)
        maps = max(maps, float(np.abs(other.anomaly_map - one.anomaly_map).max()) / scale)
        embeddings = max(embeddings, float(np.abs(other.embedding - one.embedding).max()))
    return scores, maps, embeddings


def peak_mib(device: str) -> float:
    """Return the most memory of the device since ``reset_peak``, or the process's on a CPU."""
    if device == "cpu":
        return float(psutil.Process().memory_info().rss / 2**20)
    return float(torch.cuda.max_memory_allocated(device) / 2**20)


def reset_peak(device: str) -> None:
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def batch_ms(detector: Detector, inputs: Sequence[Tensor], rounds: int) -> float:
    """Return the median duration of a batch; predictions are on the CPU when it ends."""
    taken = []
    for number in range(rounds + 2):
        began = time.perf_counter()
        detector.predict(inputs)
        if number > 1:  # the first ones choose algorithms and allocate memory
            taken.append(1000 * (time.perf_counter() - began))
    return median(taken)


def measure(name: str, build: Build, arguments: argparse.Namespace, report: Report) -> bool:
    """Write parity and the batching curve of a detector. Return whether parity holds."""
    on_cpu, device = build("cpu"), arguments.device
    images = [random_image(seed, arguments.side) for seed in range(max(arguments.batches))]
    inputs = [on_cpu.prepare(image) for image in images]
    shown = inputs[: arguments.images]
    expected = [on_cpu.predict([each])[0] for each in shown]
    reset_peak(device)
    detector = build(device)
    one_by_one = differences(expected, [detector.predict([each])[0] for each in shown])
    together = differences(expected, detector.predict(shown))
    holds = max(*one_by_one, *together) <= _LARGEST_DIFFERENCE
    report.write(f"\n### {name}\n")
    report.write(
        f"Largest difference from torch on the CPU over {len(shown)} images, which may be "
        f"{_LARGEST_DIFFERENCE:g}: {'holds' if holds else 'FAILS'}.\n"
    )
    report.write("| | score, relative | map, relative | embedding |\n|---|---:|---:|---:|")
    for row, (scores, maps, embeddings) in (("one by one", one_by_one), ("one batch", together)):
        report.write(f"| {row} | {scores:.1e} | {maps:.1e} | {embeddings:.1e} |")
    cpu_ms = batch_ms(on_cpu, inputs[:1], arguments.rounds)
    report.write("\n| images in a batch | ms per batch | frames/s | peak, MiB |\n|---|---:|---:|---:|")
    for size in arguments.batches:
        reset_peak(device)
        ms = batch_ms(detector, inputs[:size], arguments.rounds)
        report.write(f"| {size} | {ms:.1f} | {1000 * size / ms:.1f} | {peak_mib(device):.0f} |")
    report.write(f"\ntorch on the CPU, one image: {cpu_ms:.1f} ms.")
    return holds


def served(folder: Path, arguments: argparse.Namespace, report: Report) -> None:
    """Train a model on the device, serve it from there, and write the rates of streams."""
    os.environ["BLEMISH_DEVICE"] = arguments.device
    surface = folder / "tile"
    generate(surface, "tile", train=arguments.train, good=8, defective=8)
    serving.jpegs(surface, folder / "frames")
    with serving.running(folder) as address:
        began = time.perf_counter()
        with Client(address) as client:
            client.import_dataset("tile", str(surface))
            job = client.wait(client.train("tile"))
            if job.error:
                raise SystemExit(job.error)
            model = str(job.result.model_version)
            took = time.perf_counter() - began
            runtime = client.score(folder / "frames/000.jpg", model).runtime
        report.write(
            f"\n### Server on {arguments.device}\n\nA PatchCore was trained on {arguments.train} images in "
            f"{took:.0f} s, and served by the runtime {runtime}. Frames are JPEGs of 512 px.\n"
        )
        report.write(
            "| | frames/s | p50, ms | p99, ms | server cores | MiB |\n|---|---:|---:|---:|---:|---:|"
        )
        process = serving.server_process(address)
        for kind, callers in (("unary", 1), ("stream", 1), ("stream", 4), ("stream", 16)):
            load = serving.served(
                process, address, model, folder / "frames", kind, callers, arguments.seconds
            )
            report.write(
                f"| {callers} {noun(kind, callers)} "
                f"| {load.rate:.1f} | {load.p50_ms:.1f} | {load.p99_ms:.1f} "
                f"| {load.cores:.2f} | {load.resident_mib:.0f} |"
            )


def noun(kind: str, callers: int) -> str:
    return f"{'stream' if kind == 'stream' else 'unary caller'}{'s' if callers > 1 else ''}"


def device_name(device: str) -> str:
    return "the CPU" if device == "cpu" else torch.cuda.get_device_name(device)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the script itself")
    options.add_argument("--quick", action="store_true", help="small inputs, banks and batches")
    options.add_argument("--no-server", action="store_true", help="without the training and the server")
    arguments: Any = options.parse_args()
    if arguments.device != "cpu" and not torch.cuda.is_available():
        sys.exit(
            "no CUDA device is available, so nothing was measured; run this on a machine with one, or try "
            "the script itself with --device cpu --quick --no-page"
        )
    quick = arguments.quick
    arguments.side, arguments.images = (64, 3) if quick else (256, 16)
    arguments.batches = [1, 2, 4] if quick else [1, 2, 4, 8, 16, 32]
    arguments.rounds, arguments.train = (2, 12) if quick else (15, 122)
    arguments.seconds = 1.5 if quick else 6.0
    banks = [500] if quick else [2_800, 10_000, 28_000]
    # The page is for figures of a GPU; a try on a CPU only shows that the script runs.
    arguments.no_page = arguments.no_page or arguments.device == "cpu"
    with (
        tempfile.TemporaryDirectory() as made,
        section("bench_gpu", "GPU", arguments) as report,
    ):
        report.write(
            f"On {device_name(arguments.device)} with torch {torch.__version__}, inputs of "
            f"{arguments.side} px, medians of {arguments.rounds} batches."
        )
        rows = [(f"PatchCore, bank of {bank:,}", patchcore(bank, arguments.side)) for bank in banks]
        rows.append(("EfficientAD-S", efficientad(256)))
        held = [measure(name, build, arguments, report) for name, build in rows]
        if not arguments.no_server:
            served(Path(made), arguments, report)
    if not all(held):
        sys.exit("parity with the CPU fails; see the table")


if __name__ == "__main__":
    main()
