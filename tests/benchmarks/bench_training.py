# SPDX-License-Identifier: Apache-2.0
"""Time whole trainings of PatchCore, from images on disk to a published version, phase by phase.

    python -m tests.benchmarks.bench_training [--images 200] [--rounds 5]

The first row runs torch alone (`BLEMISH_RUNTIME=torch`), which publishes nothing for OpenVINO. The others
run as a worker on a CPU does by default. The first training in a process converts the backbone for
OpenVINO, and later ones use the converted backbone.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import Mock

from tests.benchmarks.report import parser, section

from blemish_client.demo.surfaces import generate
from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers.train import train
from blemish_core.jobs.record import TrainSpec
from blemish_core.jobs.reporter import NullReporter
from blemish_core.models.store import ModelStore
from blemish_core.platform.disk import StoreDisk
from blemish_core.runtimes import openvino_runtime
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.search_index import SearchIndex

_TORCH, _FIRST, _LATER = "torch alone", "OpenVINO, first in a process", "OpenVINO, later"
_SURFACE = "leather"


def job_context(folder: Path, images: int) -> JobContext:
    """Make a store with one dataset; a training does not use the index."""
    generate(folder / _SURFACE, _SURFACE, train=images, good=20, defective=32, size=256)
    datasets = DatasetStore(folder / "datasets", ImageLimits())
    datasets.import_folder(_SURFACE, _SURFACE, folder / _SURFACE, [folder])
    return JobContext(
        datasets=datasets,
        models=ModelStore(folder / "models"),
        frames=FrameStore(folder / "frames"),
        connect_index=lambda: Mock(spec=SearchIndex),
        weights=folder / "weights",
        limits=ImageLimits(),
        device="cpu",
        runtime=RuntimeChoice(),
        max_feature_bytes=4 << 30,
        checkpoints=folder / "checkpoints",
        rates=folder / "rates",
        photographs=None,
        disk=StoreDisk(folder, 0),
    )


class PhaseClock(NullReporter):
    """A reporter that measures the duration of each phase, in seconds."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}
        self._phase, self._since = "", 0.0

    def progress(self, phase: str, done: int, total: int, unit: str) -> None:
        if phase == self._phase:
            return
        now = time.perf_counter()
        if self._phase:
            self.took[self._phase] = self.took.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now


def trained(context: JobContext, job: str) -> dict[str, float]:
    """Train once; return the duration of each phase, in seconds."""
    clock = PhaseClock()
    train(context, TrainSpec(dataset=_SURFACE, model_id=_SURFACE), job, clock)
    clock.progress("end", 0, 0, "")
    return clock.took


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--images", type=int, default=200, help="good training images")
    options.add_argument("--rounds", type=int, default=5, help="rounds of one training each way")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as made:
        context = job_context(Path(made), arguments.images)
        by_torch = replace(context, runtime=RuntimeChoice("torch"))
        rows: dict[str, list[dict[str, float]]] = {_TORCH: [], _FIRST: [], _LATER: []}
        trained(context, "warm-up")  # imports take seconds
        for number in range(arguments.rounds):
            rows[_TORCH].append(trained(by_torch, f"torch-{number}"))
            openvino_runtime.CONVERSIONS.clear()
            rows[_FIRST].append(trained(context, f"first-{number}"))
            rows[_LATER].append(trained(context, f"later-{number}"))
    phases = list(rows[_FIRST][0])
    with section("bench_training", "Training", arguments) as report:
        report.write(
            f"{arguments.images} good training images of 256 px, 52 test images; seconds, medians of "
            f"{arguments.rounds} rounds.\n"
        )
        report.write(f"| | total | {' | '.join(phases)} |")
        report.write(f"|---|{'---|' * (len(phases) + 1)}")
        for name, rounds in rows.items():
            each = (median(took.get(phase, 0.0) for took in rounds) for phase in phases)
            total = median(sum(took.values()) for took in rounds)
            report.write(f"| {name} | {total:.1f} | {' | '.join(f'{seconds:.1f}' for seconds in each)} |")


if __name__ == "__main__":
    main()
