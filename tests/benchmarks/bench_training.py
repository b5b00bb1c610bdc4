# SPDX-License-Identifier: Apache-2.0
"""Time whole trainings of PatchCore, from images on disk to a published version, phase by phase.

    python -m tests.benchmarks.bench_training [--images 200] [--rounds 5]

By torch alone (`BLEMISH_RUNTIME=torch`, which publishes nothing for OpenVINO), and as a worker on a CPU
does by default: the first training in its process, and a later one, which finds the backbone converted.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest.mock import Mock

from blemish_client.demo.surfaces import generate
from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.jobs.context import JobContext
from blemish_core.jobs.handlers.train import Ear, train
from blemish_core.jobs.record import TrainSpec
from blemish_core.models.store import ModelStore
from blemish_core.runtimes import openvino_runtime
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.search.frame_store import FrameStore
from blemish_core.search.search_index import SearchIndex

_TORCH, _FIRST, _LATER = "torch alone", "OpenVINO, the first in a process", "OpenVINO, later ones"
_SURFACE = "leather"


def workplace(folder: Path, images: int) -> JobContext:
    """A store with one dataset; a training asks nothing of the index."""
    generate(folder / _SURFACE, _SURFACE, train=images, good=20, defective=32, size=256)
    datasets = DatasetStore(folder / "datasets", ImageLimits())
    datasets.import_folder(_SURFACE, _SURFACE, folder / _SURFACE, [folder])
    return JobContext(
        datasets=datasets,
        models=ModelStore(folder / "models"),
        index=Mock(spec=SearchIndex),
        frames=FrameStore(folder / "frames"),
        weights=folder / "weights",
        limits=ImageLimits(),
        device="cpu",
        runtime=RuntimeChoice(),
        max_feature_bytes=4 << 30,
        scratch=folder / "scratch",
        max_scratch_bytes=0,
        checkpoints=folder / "checkpoints",
        photographs=None,
    )


class Clock:
    """Seconds of each phase, as the job tells them."""

    def __init__(self) -> None:
        self.took: dict[str, float] = {}
        self._phase, self._since = "", 0.0

    def hear(self, phase: str, done: int, total: int, unit: str) -> None:
        if phase == self._phase:
            return
        now = time.perf_counter()
        if self._phase:
            self.took[self._phase] = self.took.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now


def trained(place: JobContext, job: str) -> dict[str, float]:
    """Train once; returns the seconds of each phase."""
    clock = Clock()
    train(
        place,
        TrainSpec(dataset=_SURFACE, model_id=_SURFACE),
        job,
        Ear(clock.hear, lambda text: None, lambda: None),
    )
    clock.hear("end", 0, 0, "")
    return clock.took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200, help="good images to learn from")
    parser.add_argument("--rounds", type=int, default=5, help="of one training each way")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        place = workplace(Path(made), asked.images)
        by_torch = replace(place, runtime=RuntimeChoice("torch"))
        rows: dict[str, list[dict[str, float]]] = {_TORCH: [], _FIRST: [], _LATER: []}
        trained(place, "warm-up")  # imports take seconds
        for number in range(asked.rounds):
            rows[_TORCH].append(trained(by_torch, f"torch-{number}"))
            openvino_runtime.forget()
            rows[_FIRST].append(trained(place, f"first-{number}"))
            rows[_LATER].append(trained(place, f"later-{number}"))
    phases = list(rows[_FIRST][0])
    print(
        f"{asked.images} good images of 256 px to learn from, 52 to measure on, {os.cpu_count()} cores; "
        f"seconds, medians of {asked.rounds} rounds\n"
    )
    print(f"| | in all | {' | '.join(phases)} |")
    print(f"|---|{'---|' * (len(phases) + 1)}")
    for name, rounds in rows.items():
        each = (median(took.get(phase, 0.0) for took in rounds) for phase in phases)
        total = median(sum(took.values()) for took in rounds)
        print(f"| {name} | {total:.1f} | {' | '.join(f'{seconds:.1f}' for seconds in each)} |")


if __name__ == "__main__":
    main()
