# SPDX-License-Identifier: Apache-2.0
"""Peak memory and CPU time of an entry point for one input, measured in a process of its own.

``python -m tests.support.bounds ENTRY MAX_PIXELS FILE...`` prints one line of JSON per file. The peak is
the growth of the resident memory, which includes the memory of libraries in C.
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PIXEL_BYTES = 4
"""Size of a pixel with colours in the decoders, in bytes."""
_OVERHEAD_BYTES = 8 << 20


@dataclass(frozen=True)
class Measurement:
    """The cost of one input."""

    input_bytes: int
    peak_bytes: int
    cpu_s: float
    outcome: str
    """``accepted``, or the name and message of the error."""

    def times_pixels(self, max_pixels: int) -> float:
        """Return the peak in multiples of the largest allowed image, at 4 bytes a pixel."""
        return self.peak_bytes / (PIXEL_BYTES * max_pixels)


def most_bytes(max_pixels: int, input_bytes: int) -> int:
    """Return the memory that decoding may take: four times the allowed pixels, and four times the input."""
    return 4 * PIXEL_BYTES * max_pixels + 4 * input_bytes + _OVERHEAD_BYTES


def measure(entry: str, files: Sequence[Path], max_pixels: int) -> list[Measurement]:
    """Return the cost of each file at an entry point."""
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.support.bounds",
            entry,
            str(max_pixels),
            *map(str, files),
        ],
        # Freed memory returns to the system at once, so that each peak is that of one input.
        env=os.environ
        | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    return [Measurement(**json.loads(line)) for line in done.stdout.splitlines()]


def _entries(max_pixels: int) -> Mapping[str, Callable[[bytes], object]]:
    from tests.fuzz.target import load

    from blemish_core.imaging.decode import ImageLimits, decode, read_mask, thumbnail, verify
    from blemish_core.imaging.frame_mask import FrameMask

    limits = ImageLimits(max_pixels=max_pixels, max_bytes=1 << 30)
    images: dict[str, Callable[[bytes], object]] = {
        "decode": lambda data: decode(data, limits),
        "verify": lambda data: verify(data, limits),
        "mask of an image": lambda data: read_mask(data, limits),
        "thumbnail": lambda data: thumbnail(data, limits=limits),
        "mask of a model": lambda data: FrameMask.from_png(data, limits),
    }
    return images if sys.argv[1] in images else {sys.argv[1]: load(sys.argv[1]).run}


def _memory_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"the kernel reports no {name}")


def main() -> None:
    run = _entries(int(sys.argv[2]))[sys.argv[1]]
    for number, path in enumerate([sys.argv[3], *sys.argv[3:]]):
        data = Path(path).read_bytes()
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, start_s = _memory_bytes("VmRSS"), time.process_time()
        try:
            run(data)
            outcome = "accepted"
        except Exception as error:
            outcome = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        cpu_s, peak = time.process_time() - start_s, _memory_bytes("VmHWM")
        if number:  # the first one loads libraries and fills caches
            print(
                json.dumps(
                    {
                        "input_bytes": len(data),
                        "peak_bytes": max(0, peak - before),
                        "cpu_s": cpu_s,
                        "outcome": outcome,
                    }
                )
            )


if __name__ == "__main__":
    main()
