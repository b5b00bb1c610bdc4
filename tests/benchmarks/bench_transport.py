# SPDX-License-Identifier: Apache-2.0
"""Compare the ways of raw frames of 5 Mpx to a server on the same machine.

    python -m tests.benchmarks.bench_transport [--quick] [--cameras 1 4 16] [--seconds 5] [--rounds 5]

Cameras send RGB8 frames of 2448 x 2048 px, which are 15 MB each, through TCP, through a unix socket, or in
shared memory of the Open Inference Protocol. The model is a PatchCore with default settings that was
trained on such frames. Its input has a shorter side of 320 px, so transport is a large share of the work.
Cameras are closed loops in one process on the server's cores. One camera has 4 unanswered frames, 4 have 2
each, and 16 have one each. Rows take turns, and figures are medians of the rounds.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.benchmarks import raw_cameras
from tests.benchmarks.bench_edge import progress
from tests.benchmarks.bench_serving import running
from tests.benchmarks.raw_cameras import Cameras, InProcess, Load, Surface, Trainer, middle
from tests.benchmarks.report import Report, parser, section
from tests.support.ports import free_port

_SIZE = 2448, 2048
_IMAGES = 8
_MODEL = "transport"


def bench(folder: Path, arguments: argparse.Namespace) -> dict[str, list[Load]]:
    """Return the loads of each row, one for each round."""
    surface, seconds = Surface(folder / "surface", _IMAGES), arguments.seconds
    frames = surface.frames(folder / "frames", _SIZE, "RGB8")
    images = surface.training_set(folder / "images", _SIZE, _IMAGES)
    tcp, unix = f"127.0.0.1:{free_port()}", f"unix:{folder / 'socket'}"
    with running(folder):
        progress("train a model")
        data = folder / "data"
        version = Trainer(folder, data).train(_MODEL, images)
        with (
            raw_cameras.server(data, tcp, BLEMISH_SHARED_MEMORY="true") as by_tcp,
            raw_cameras.server(data, unix) as by_unix,
            Cameras(frames) as streams,
            Cameras(frames, "shared") as sharing,
            InProcess(version, frames) as limit,
        ):
            rows: dict[str, Callable[[], Load]] = {"in process": partial(limit.load, seconds)}
            for number in arguments.cameras:
                noun = f"{number} camera{'s' if number > 1 else ''}"
                for way, cameras, process, address in (
                    ("TCP", streams, by_tcp, tcp),
                    ("unix socket", streams, by_unix, unix),
                    ("shared memory", sharing, by_tcp, tcp),
                ):
                    rows[f"{noun}, {way}"] = partial(
                        cameras.load, process, address, [_MODEL], number, seconds
                    )
            for name, row in rows.items():
                progress(f"warm up: {name}")
                row()  # loads models, and allocates memory
            rounds: dict[str, list[Load]] = {name: [] for name in rows}
            for number in range(arguments.rounds):
                for name, row in rows.items():
                    progress(f"round {number + 1} of {arguments.rounds}: {name}")
                    rounds[name].append(row())
    return rounds


def show(rounds: dict[str, list[Load]], arguments: argparse.Namespace, report: Report) -> None:
    """Write the medians of the rounds."""
    limit = middle(rounds["in process"], "rate")
    report.write(
        f"RGB8 frames of {_SIZE[0]} x {_SIZE[1]} px; {arguments.seconds:g} s per row, medians of "
        f"{arguments.rounds} rounds. CPU is the time of all cores for one frame.\n"
    )
    report.write(
        "| | frames/s | share of in process | p50, ms | server CPU, ms | cameras' CPU, ms | refused |"
    )
    report.write("|---|---:|---:|---:|---:|---:|---:|")
    for name, loads in rounds.items():
        rate, p50, cpu, of_server = (
            middle(loads, figure) for figure in ("rate", "p50_ms", "cpu_ms", "server_cpu_ms")
        )
        cells = f"{of_server:.1f} | {cpu:.1f}" if of_server else f"{cpu:.1f} | -"
        refused = sum(load.refused for load in loads)
        report.write(f"| {name} | {rate:.1f} | {rate / limit:.2f} | {p50:.0f} | {cells} | {refused} |")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cameras", type=int, nargs="+", default=[1, 4, 16])
    options.add_argument("--seconds", type=float, default=5.0, help="length of a row")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--quick", action="store_true", help="one round of 2 s per row")
    arguments = options.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.rounds = 2.0, 1
    with (
        tempfile.TemporaryDirectory() as made,
        section("bench_transport", "Transport on one machine", arguments) as report,
    ):
        show(bench(Path(made), arguments), arguments, report)


if __name__ == "__main__":
    main()
