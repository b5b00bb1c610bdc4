# SPDX-License-Identifier: Apache-2.0
"""Measure what raw frames of 0.3 to 26 Mpx cost: time, memory, streams, and cameras per core.

    python -m tests.benchmarks.bench_large [--quick] [--seconds 2] [--rounds 5]

Each model was trained on frames of the size that it scores. Small inputs have a shorter side of 320 px,
which is the default. Fine ones show a defect of 5 px, so they grow with the frame; above 1.6 Mpx they are
cut into tiles. Banks have up to 10,000 entries. Frames are sent raw, as Mono8. Cameras are closed loops in
one process on the server's cores: one has 4 unanswered frames, 4 have 2 each. Each model has a server of
its own. Its rows take turns, and figures are medians of the rounds.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
from tests.benchmarks import raw_cameras
from tests.benchmarks.bench_edge import progress
from tests.benchmarks.bench_serving import running
from tests.benchmarks.raw_cameras import Cameras, InProcess, Load, Stages, Surface, Trainer, middle
from tests.benchmarks.report import Report, parser, section
from tests.support.ports import free_port

from blemish_client import Client
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.models.bundle_files import read_checked

_SIZES = ((640, 480), (1280, 1024), (2448, 2048), (4096, 3000), (5120, 5120))
_QUICK_SIZES = _SIZES[::2]
_KINDS: dict[str, dict[str, float]] = {"small": {}, "fine": {"smallest_defect": 5.0}}
_CAMERAS = (1, 4)
_RATES = (5, 15, 30)
_BANKS = (1_000, 10_000, 30_000)
_MODELS = (1, 4, 16)
_IMAGES, _FEW_IMAGES, _MANY_IMAGES = 8, 3, 24
_ENOUGH_PATCHES = 12_000
_STAGED_FRAMES = 3
_MIB = 1 << 20


@dataclass
class Row:
    """The results of one model."""

    name: str
    input: tuple[int, int]
    """Size of the network's input (width, height)."""
    stages: Stages
    limit: list[Load] = field(default_factory=list)
    served: dict[int, list[Load]] = field(default_factory=dict)
    """Loads by number of cameras."""
    loaded_mib: float = 0.0
    """Memory that the server has more than before it loaded the model."""
    peak_mib: float = 0.0
    """The most of it under load."""


class Bench:
    """A stack, and the surface that its models learn."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        self._folder, self._arguments = folder, arguments
        self._data = folder / "data"
        self._surface = Surface(folder / "surface", _MANY_IMAGES)
        self._trainer = Trainer(folder, self._data)

    def trained(self, name: str, size: tuple[int, int], images: int, settings: dict[str, object]) -> Path:
        """Train on frames of a size; return the folder of the version."""
        progress(f"train {name}")
        folder = self._surface.training_set(self._folder / "images" / name, size, images)
        version = self._trainer.train(name, folder, **settings)
        shutil.rmtree(folder)
        return version

    def row(self, label: str, model: str, version: Path, frames: Path) -> Row:
        """Measure a model on its frames."""
        progress(f"measure {label}")
        seconds, address = self._arguments.seconds, f"127.0.0.1:{free_port()}"
        with InProcess(version, frames) as limit, Cameras(frames) as cameras:
            row = Row(label, _input(version, frames), limit.stages(_STAGED_FRAMES))
            with raw_cameras.server(self._data, address) as process:
                before = _resident_mib(process)
                cameras.load(process, address, [model], 1, 0.1)
                row.loaded_mib = _resident_mib(process) - before
                limit.load(0.1)
                for _ in range(self._arguments.rounds):
                    row.limit.append(limit.load(seconds))
                    for number in _CAMERAS:
                        load = cameras.load(process, address, [model], number, seconds)
                        row.served.setdefault(number, []).append(load)
                row.peak_mib = raw_cameras.peak_mib(process) - before
        return row

    def sizes(self) -> list[Row]:
        """Return a row for each size and kind of input."""
        rows = []
        for size in _QUICK_SIZES if self._arguments.quick else _SIZES:
            name = f"{size[0]}x{size[1]}"
            frames = self._surface.frames(self._folder / "frames" / name, size)
            for kind, settings in _KINDS.items():
                model = f"{kind}-{name}"
                images = (
                    _IMAGES if _patches(size, settings) * _FEW_IMAGES < _ENOUGH_PATCHES else _FEW_IMAGES
                )
                version = self.trained(model, size, images, {"coreset_ratio": 1.0, **settings})
                label = f"{size[0] * size[1] / 1e6:.1f} Mpx, {kind}"
                rows.append(self.row(label, model, version, frames))
            shutil.rmtree(frames)
        return rows

    def banks(self) -> list[Row]:
        """Return a row for each size of the bank."""
        size, rows = _SIZES[0], []
        frames = self._surface.frames(self._folder / "frames/banks", size)
        for entries in _BANKS[:2] if self._arguments.quick else _BANKS:
            model = f"bank-{entries}"
            settings: dict[str, object] = {"coreset_ratio": 1.0, "max_entries": entries}
            version = self.trained(model, size, _MANY_IMAGES if entries > 10_000 else _IMAGES, settings)
            rows.append(self.row(f"{entries:,} entries", model, version, frames))
        return rows

    def models(self, stack: str) -> dict[int, tuple[float, list[Load]]]:
        """Return memory and loads by number of models, of 16 cameras that take turns with the models.

        Args:
            stack: address of the stack, which copies the model.
        """
        frames, seconds = self._folder / "frames/banks", self._arguments.seconds
        names = [f"copy-{number}" for number in range(max(_MODELS))]
        with Client(stack) as client:
            file = self._folder / "model"
            client.export_model(f"bank-{_BANKS[1]}", file)
            for name in names:
                client.import_model(file, model_id=name)
        found: dict[int, tuple[float, list[Load]]] = {}
        with ExitStack() as stacks:
            address = f"127.0.0.1:{free_port()}"
            process = stacks.enter_context(raw_cameras.server(self._data, address))
            cameras = stacks.enter_context(Cameras(frames))
            before = _resident_mib(process)
            rows: dict[int, Callable[[], Load]] = {}
            for number in _MODELS:
                rows[number] = partial(
                    cameras.load, process, address, names[:number], max(_MODELS), seconds
                )
                rows[number]()
                found[number] = _resident_mib(process) - before, []
            for _ in range(self._arguments.rounds):
                for number, row in rows.items():
                    found[number][1].append(row())
        return found


def _patches(size: tuple[int, int], settings: dict[str, float]) -> float:
    """Return about how many patches the input of a frame has."""
    scale = 2 / settings["smallest_defect"] if settings else 320 / min(size)
    return size[0] * size[1] * scale**2 / 64


def _input(version: Path, frames: Path) -> tuple[int, int]:
    settings = PatchCoreSettings(scale=float(read_checked(version).settings["scale"]))
    layout = raw_cameras.read_frames(frames)[0].layout
    assert layout is not None
    height, width = settings.geometry.input_size((layout.height, layout.width))
    return width, height


def _resident_mib(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / _MIB


def show_rows(rows: list[Row], report: Report) -> None:
    """Write the tables of the sizes or banks."""
    report.write("| | input, px | one core, ms | scale | network | search | map | MiB, loaded | peak |")
    report.write("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        each = row.stages
        stages = (each.total, each.scale, each.network, each.search, each.map)
        times = " | ".join(f"{milliseconds:.1f}" for milliseconds in stages)
        width, height = row.input
        report.write(
            f"| {row.name} | {width} x {height} | {times} | {row.loaded_mib:.0f} | {row.peak_mib:.0f} |"
        )
    report.write()
    several = [f"{number} stream{'s' if number > 1 else ''}" for number in _CAMERAS]
    heads = ["in process, frames/s", *(f"{head} | share" for head in several), "CPU in process, ms"]
    heads += ["of the server", "of the cameras", "refused", *(f"at {rate} frames/s" for rate in _RATES)]
    report.write(f"| | {' | '.join(heads)} |")
    report.write(f"|---|{'---:|' * (len(heads) + len(several))}")
    cores = os.cpu_count() or 1
    for row in rows:
        limit, loads = middle(row.limit, "rate"), row.served[_CAMERAS[-1]]
        cells = [f"{limit:.2f}"]
        for number in _CAMERAS:
            rate = middle(row.served[number], "rate")
            cells += [f"{rate:.2f}", f"{rate / limit:.2f}"]
        cells += [f"{middle(row.limit, 'cpu_ms'):.1f}"]
        cells += [f"{middle(loads, figure):.1f}" for figure in ("server_cpu_ms", "cpu_ms")]
        cells += [str(sum(load.refused for rounds in row.served.values() for load in rounds))]
        cells += [f"{middle(loads, 'rate') / cores / wanted:.2f}" for wanted in _RATES]
        report.write(f"| {row.name} | {' | '.join(cells)} |")
    report.write()


def show_models(found: dict[int, tuple[float, list[Load]]], report: Report) -> None:
    """Write the table of the models."""
    report.write("| models | MiB | frames/s | server CPU, ms |\n|---:|---:|---:|---:|")
    for number, (memory, loads) in found.items():
        rate, cpu = middle(loads, "rate"), middle(loads, "server_cpu_ms")
        report.write(f"| {number} | {memory:.0f} | {rate:.1f} | {cpu:.1f} |")


def bench(folder: Path, arguments: argparse.Namespace, report: Report) -> None:
    report.write(
        f"Mono8 frames; {arguments.seconds:g} s per row, medians of {arguments.rounds} rounds. One core is "
        "in process, frame by frame. Memory is that of the server beyond its memory without a model. "
        "CPU is the time of all cores for a frame, with 4 streams. The last columns are cameras per core, "
        "from the rate of 4 streams.\n"
    )
    with running(folder) as stack:
        measured = Bench(folder, arguments)
        show_rows(measured.sizes(), report)
        width, height = _SIZES[0]
        report.write(f"Frames of {width} x {height} px by the size of the memory bank:\n")
        show_rows(measured.banks(), report)
        report.write(f"The same frames from {max(_MODELS)} cameras, by the number of models:\n")
        show_models(measured.models(stack), report)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=2.0, help="length of a row")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--quick", action="store_true", help="three sizes, two banks, one round of 1 s")
    arguments = options.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 1.0, 1
    with (
        tempfile.TemporaryDirectory() as made,
        section("bench_large", "Large frames", arguments) as report,
    ):
        bench(Path(made), arguments, report)


if __name__ == "__main__":
    main()
