# SPDX-License-Identifier: Apache-2.0
"""Time the coreset against anomalib's loop on the same features and from the same first pick.

    python -m tests.benchmarks.bench_coreset [--data FOLDER] [--whole]
    python -m tests.benchmarks.bench_coreset --points 1000000 --keep 10000 --fine --dimensions 200

Features are those of the default backbone at 256 px, of synthetic surfaces or of a folder of images. Each
pick of anomalib's loop reads all features once, so all picks cost the same. Without ``--whole`` some of its
picks are timed, and the time for all of them is extrapolated. Memory is the highest resident memory during
the selection beyond that before it, which holds the features.
"""

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import median

import torch
from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy
from tests.benchmarks.report import parser, section
from tests.support.patches import patch_features
from torch import Tensor

from blemish_client.demo.surfaces.specimen import CATEGORIES, Origin, draw
from blemish_core.detectors.base import Image, running_on
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.coreset import greedy_coreset
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.imaging.decode import ImageLimits, decode
from blemish_core.jobs.handlers.export import faster_runtime
from blemish_core.runtimes.choice import RuntimeChoice


def images(data: Path | None) -> Iterator[Image]:
    """Yield good images: those below ``data``, each once, or synthetic ones without end."""
    if data is None:
        for number in count():
            category = CATEGORIES[number % len(CATEGORIES)]
            origin = Origin(category, "train", "good", number // len(CATEGORIES), seed=0, size=256)
            yield draw(origin).image
    for path in sorted(data.rglob("*") if data else ()):
        if path.suffix.lower() in {".jpg", ".jpeg", ".png", ".bmp"}:
            yield decode(path.read_bytes(), ImageLimits())


def patches(data: Path | None, wanted: int, *, fine: bool = False, dimensions: int = 0) -> Tensor:
    """Return ``wanted`` patches (N, D), or all if the images have fewer.

    Args:
        data: folder of images, None for synthetic ones.
        wanted: number of patches.
        fine: True to add the features of stride 4.
        dimensions: number of features that are kept of each patch; 0 keeps all.
    """
    settings = PatchCoreSettings(fine=fine)
    detector = TrainablePatchCore(settings)
    detector.load_pretrained(Path("nowhere"))
    runtime = faster_runtime("cpu", RuntimeChoice(), detector.network, detector.network_size)
    parts: list[Tensor] = []
    with torch.inference_mode(), running_on(detector, runtime):
        for image in images(data):
            features, _ = patch_features(detector, [detector.prepare(image)])
            parts.append(features[0, :, : dimensions or None].clone())
            if sum(map(len, parts)) >= wanted:
                break
    return torch.cat(parts)[:wanted].clone()


class PeakMemory:
    """The highest resident memory of this process, as Linux measures it."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        self._before = self._read("VmRSS")

    def growth_bytes(self) -> int:
        """Return the peak since the creation, less the memory of then."""
        return self._read("VmHWM") - self._before

    def _read(self, field: str) -> int:
        (line,) = (
            each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith(field)
        )
        return int(line.split()[1]) << 10


def anomalib_picks(points: Tensor, ratio: float, picks: int, seed: int) -> list[int]:
    """Return the first picks of anomalib's class."""
    # It projects features of two dimensions only.
    sampler = KCenterGreedy(points[..., None], ratio)
    sampler.coreset_size = picks
    torch.manual_seed(seed)
    return sampler.select_coreset_idxs()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="a folder of images instead of synthetic surfaces")
    options.add_argument("--points", type=int, default=100_000, help="patches to select from")
    options.add_argument("--ratio", type=float, default=0.1, help="share of patches that is kept")
    options.add_argument("--keep", type=int, help="number of patches that is kept, in place of a share")
    options.add_argument("--fine", action="store_true", help="with the features of stride 4")
    options.add_argument("--dimensions", type=int, default=0, help="features of a patch; 0 keeps all")
    options.add_argument("--picks", type=int, default=300, help="picks of anomalib's loop per round")
    options.add_argument(
        "--rounds", type=int, default=5, help="rounds of anomalib's loop and then blemish's"
    )
    options.add_argument("--whole", action="store_true", help="all picks of anomalib's loop, in one round")
    arguments = options.parse_args()

    points = patches(arguments.data, arguments.points, fine=arguments.fine, dimensions=arguments.dimensions)
    keep = arguments.keep or int(len(points) * arguments.ratio)
    picks, rounds = (keep, 1) if arguments.whole else (min(arguments.picks, keep), arguments.rounds)
    theirs_s: list[float] = []
    ours_s: list[float] = []
    grown_bytes = same = compared = 0
    for seed in range(rounds):
        began_s = time.perf_counter()
        theirs = anomalib_picks(points, arguments.ratio, picks, seed)
        # The first pick is drawn at random and costs nothing.
        theirs_s.append((time.perf_counter() - began_s) / max(1, picks - 1) * (keep - 1))
        memory = PeakMemory()
        began_s = time.perf_counter()
        ours = greedy_coreset(points, keep, first=theirs[0])
        ours_s.append(time.perf_counter() - began_s)
        grown_bytes = max(grown_bytes, memory.growth_bytes())
        same += sum(our == their for our, their in zip(ours, theirs, strict=False))
        compared += picks

    faster = median(their / our for their, our in zip(theirs_s, ours_s, strict=True))
    timed = "all" if picks == keep else f"{picks:,} per round"
    name, title = (
        ("bench_coreset_keep", "Coreset, a given number")
        if arguments.keep
        else ("bench_coreset", "Coreset")
    )
    with section(name, title, arguments) as report:
        report.write(
            f"{keep:,} of {len(points):,} patches of {points.shape[1]} values kept; medians of {rounds} "
            "rounds.\n\n| coreset | picks timed | seconds | speed | same picks | memory, MiB |\n"
            "|---|---|---|---|---|---|\n"
            f"| anomalib KCenterGreedy | {timed} | {median(theirs_s):.1f} | 1x | | |\n"
            f"| blemish | all | {median(ours_s):.1f} | {faster:.0f}x | {same:,} of {compared:,} | "
            f"{grown_bytes >> 20:,} |"
        )


if __name__ == "__main__":
    main()
