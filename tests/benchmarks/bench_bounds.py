# SPDX-License-Identifier: Apache-2.0
"""Measure memory and time of the worst inputs of each entry point.

    python -m tests.benchmarks.bench_bounds [--side 2048]

Each input is decoded or parsed in a process of its own. The peak is the growth of its resident memory, the
memory of libraries in C included. Times are CPU times. An image may take four times the allowed pixels, at
4 bytes a pixel, and four times the bytes received. Texts are parsed at two lengths, to show the growth.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.report import parser, section
from tests.support.bounds import Measurement, measure, most_bytes
from tests.support.worst_images import WORST_IMAGES
from tests.support.worst_texts import WORST_TEXTS

_SIZES = (1 << 20, 4 << 20)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--side", type=int, default=2048, help="sides of the images, px")
    arguments = options.parse_args()
    with section("bench_bounds", "Worst inputs", arguments) as report, TemporaryDirectory() as folder:
        pixels = arguments.side**2
        report.write(f"Images of {pixels / 1e6:.1f} megapixels, with that number as the limit.\n")
        report.write(
            "| image | bytes in | peak, MiB | of 4 bytes a pixel | of the bound | CPU, s | outcome |"
        )
        report.write("|---|---|---|---|---|---|---|")
        for name, build in WORST_IMAGES.items():
            (found,) = _measured("decode", [build(arguments.side)], Path(folder), pixels)
            bound = most_bytes(pixels, found.input_bytes)
            report.write(
                f"| {name} | {found.input_bytes:,} | {found.peak_bytes / 2**20:.0f} "
                f"| {found.times_pixels(pixels):.1f} | {found.peak_bytes / bound:.0%} | {found.cpu_s:.2f} "
                f"| {found.outcome.partition(':')[0]} |"
            )
        report.write("\nParsers of texts and archives, for inputs of 1 and of 4 MiB:\n")
        report.write("| parser | input | bytes in | peak, MiB | CPU, s | outcome |")
        report.write("|---|---|---|---|---|---|")
        for target, builds in WORST_TEXTS.items():
            for name, build in builds.items():
                first, second = _measured(target, [build(size) for size in _SIZES], Path(folder), pixels)
                report.write(
                    f"| {target} | {name} | {first.input_bytes:,}; {second.input_bytes:,} "
                    f"| {first.peak_bytes / 2**20:.0f}; {second.peak_bytes / 2**20:.0f} "
                    f"| {first.cpu_s:.2f}; {second.cpu_s:.2f} | {second.outcome.partition(':')[0]} |"
                )


def _measured(entry: str, inputs: list[bytes], folder: Path, max_pixels: int) -> list[Measurement]:
    files = []
    for number, data in enumerate(inputs):
        files.append(folder / str(number))
        files[-1].write_bytes(data)
    return measure(entry, files, max_pixels)


if __name__ == "__main__":
    main()
