# SPDX-License-Identifier: Apache-2.0
"""Time the features of one frame by backbone, on OpenVINO and on torch.

    python -m tests.benchmarks.bench_backbones [--backbones NAME ...] [--size 256] [--threads 1]

The time is from the input of the network to the features of its patches, one frame at a time, in
interleaved rounds. Weights are random, which cost the same as trained ones. The search of the memory bank
comes on top; it takes longer the more features a patch has.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from tests.benchmarks.report import parser, section
from torch import Tensor

from blemish_core.detectors.common.backbone import PACKAGED
from blemish_core.detectors.patchcore.settings import requested
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.imaging.geometry import ANY_SIZE
from blemish_core.runtimes.openvino_runtime import NotConvertible, OpenVinoRuntime

BACKBONES = (
    *PACKAGED,
    "resnet18",
    "wide_resnet50_2",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
)
COLUMNS = ("backbone", "weights from", "parameters", "features", "patches", "OpenVINO, ms", "torch, ms")


@dataclass(frozen=True)
class MeasuredBackbone:
    """A backbone with the properties of its features and its runtimes."""

    name: str
    parameters: int
    features: int
    patches: int
    runtimes: dict[str, Callable[[Tensor], object]]


def row(name: str, size: int, threads: int) -> MeasuredBackbone:
    detector = TrainablePatchCore(requested(backbone=name))
    network = detector.network
    image = torch.zeros(1, 3, size, size)
    with torch.inference_mode():
        (maps,) = network(image)
    runtimes: dict[str, Callable[[Tensor], object]] = {"torch": detector.runtime}
    try:
        runtimes["openvino"] = OpenVinoRuntime.of(network, ANY_SIZE, threads=threads)
    except NotConvertible as refusal:
        print(f"{name} on torch only: {refusal}")
    parameters = sum(each.numel() for each in network.parameters())
    return MeasuredBackbone(name, parameters, maps.shape[1], maps.shape[2] * maps.shape[3], runtimes)


def timed(rows: list[MeasuredBackbone], size: int, rounds: int) -> dict[tuple[str, str], float]:
    """Return the median duration of one frame in milliseconds, by backbone and runtime."""
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for each in rows:
            for runtime, run in each.runtimes.items():
                began = time.perf_counter()
                with torch.inference_mode():
                    run(image)
                if number:  # the first is warm-up
                    times.setdefault((each.name, runtime), []).append(1000 * (time.perf_counter() - began))
    return {key: median(taken) for key, taken in times.items()}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--backbones", nargs="*", default=list(BACKBONES), help="names in timm")
    options.add_argument("--size", type=int, default=256, help="side of the input, px")
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--rounds", type=int, default=9)
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    with section("bench_backbones", "Backbones", arguments) as report:
        rows = [row(name, arguments.size, arguments.threads) for name in arguments.backbones]
        taken = timed(rows, arguments.size, arguments.rounds)
        report.write(
            f"Features of one frame of {arguments.size} x {arguments.size} px, medians of "
            f"{arguments.rounds} rounds, threads: {arguments.threads}. Parameters are those of the part in "
            "use.\n"
        )
        report.write(f"| {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * (len(COLUMNS) - 2)}")
        for each in rows:
            cells = [
                f"`{each.name}`",
                "package" if each.name in PACKAGED else "file or hub",
                f"{each.parameters / 1e6:.1f} M",
                str(each.features),
                str(each.patches),
                f"{taken[each.name, 'openvino']:.1f}" if "openvino" in each.runtimes else "no",
                f"{taken[each.name, 'torch']:.1f}",
            ]
            report.write(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
