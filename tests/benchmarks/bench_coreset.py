# SPDX-License-Identifier: Apache-2.0
"""Time the coreset against anomalib's loop on the same features and from the same first pick.

    python -m tests.benchmarks.bench_coreset [--data FOLDER] [--whole]

Features are those of EfficientNet-Lite0 at 256 px, of synthetic surfaces or of a folder of images. Each
pick of anomalib's loop reads all features once, so all picks cost the same. Without ``--whole`` some of its
picks are timed, and the time for all of them is extrapolated.
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
from blemish_core.detectors.base import Image
from blemish_core.detectors.patchcore.settings import PatchCoreSettings
from blemish_core.detectors.patchcore.training.coreset import greedy_coreset
from blemish_core.detectors.patchcore.training.trainable import TrainablePatchCore
from blemish_core.imaging.decode import ImageLimits, decode


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


def patches(data: Path | None, wanted: int) -> Tensor:
    """Return ``wanted`` patches (N, D), or all if the images have fewer."""
    settings = PatchCoreSettings()
    detector = TrainablePatchCore(settings)
    detector.load_pretrained(Path("nowhere"))
    parts: list[Tensor] = []
    with torch.inference_mode():
        for image in images(data):
            features, _ = patch_features(detector, [detector.prepare(image)])
            parts.append(features[0])
            if sum(map(len, parts)) >= wanted:
                break
    return torch.cat(parts)[:wanted].clone()


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
    options.add_argument("--picks", type=int, default=300, help="picks of anomalib's loop per round")
    options.add_argument(
        "--rounds", type=int, default=5, help="rounds of anomalib's loop and then blemish's"
    )
    options.add_argument("--whole", action="store_true", help="all picks of anomalib's loop, in one round")
    arguments = options.parse_args()

    points = patches(arguments.data, arguments.points)
    keep = int(len(points) * arguments.ratio)
    picks, rounds = (keep, 1) if arguments.whole else (min(arguments.picks, keep), arguments.rounds)
    theirs_s: list[float] = []
    ours_s: list[float] = []
    same = compared = 0
    for seed in range(rounds):
        began_s = time.perf_counter()
        theirs = anomalib_picks(points, arguments.ratio, picks, seed)
        # The first pick is drawn at random and costs nothing.
        theirs_s.append((time.perf_counter() - began_s) / max(1, picks - 1) * (keep - 1))
        began_s = time.perf_counter()
        ours = greedy_coreset(points, keep, first=theirs[0])
        ours_s.append(time.perf_counter() - began_s)
        same += sum(our == their for our, their in zip(ours, theirs, strict=False))
        compared += picks

    faster = median(their / our for their, our in zip(theirs_s, ours_s, strict=True))
    timed = "all" if picks == keep else f"{picks:,} per round"
    with section("bench_coreset", "Coreset", arguments) as report:
        report.write(
            f"{keep:,} of {len(points):,} patches of {points.shape[1]} values kept; medians of {rounds} "
            "rounds.\n\n| coreset | picks timed | seconds | speed | same picks |\n|---|---|---|---|---|\n"
            f"| anomalib KCenterGreedy | {timed} | {median(theirs_s):.1f} | 1x | |\n"
            f"| blemish | all | {median(ours_s):.1f} | {faster:.0f}x | {same:,} of {compared:,} |"
        )


if __name__ == "__main__":
    main()
