# SPDX-License-Identifier: Apache-2.0
"""What a version that judges beside the one in production costs it: latency and frames a second.

    python -m tests.benchmarks.bench_shadow [--seconds 8] [--rounds 5]

The scenes of bench_fairness.py, a camera that sends an eighth of what the server can score and one beside
four streams that take all there is, each with a shadow and without, in turn; medians of the rounds. Both
versions are PatchCore of the synthetic tile. The last column: frames that the shadow judged, a second.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import bench_serving as serving
from tests.benchmarks.bench_fairness import Shares, played

from blemish.v1.model_pb2 import ShadowComparison
from blemish_client import Client

_BESIDE = ("nobody", "4 streams")
_SHARE = 1 / 8
_SETTLES_S = 1.5


@dataclass(frozen=True)
class Scene:
    shares: Shares
    judged: float
    """Frames that the shadow judged, a second."""


def judged(comparison: ShadowComparison) -> int:
    return (
        comparison.both_normal
        + comparison.both_anomalous
        + comparison.only_shadow
        + comparison.only_production
    )


def bench(folder: Path, arguments: argparse.Namespace) -> None:
    surface = folder / "tile"
    model = serving.trained_surface(surface)
    serving.jpegs(surface, folder / "frames")
    with serving.running(folder) as address, Client(address) as client:
        version = model(address)
        client.promote(version)
        second = client.wait(client.train("tile", seed=1)).result.model_version
        plan = {
            "address": address,
            "model": version,
            "frames": str(folder / "frames"),
            "seconds": arguments.seconds,
            "rate": 1.0,
            "policy": "BLOCK",
        }
        played(plan | {"beside": "4 streams"})  # warms up
        rate = played(plan | {"beside": "4 streams"}).others * _SHARE

        def scene(beside: str, shadow: bool) -> Scene:
            client.shadow(second, shadow)
            time.sleep(_SETTLES_S)
            before = judged(client.model(second).comparison)
            shares = played(plan | {"beside": beside, "rate": rate})
            return Scene(shares, (judged(client.model(second).comparison) - before) / arguments.seconds)

        scene("nobody", shadow=True)  # loads it
        scenes = [(beside, shadow) for beside in _BESIDE for shadow in (False, True)]
        rounds = [{which: scene(*which) for which in scenes} for _ in range(arguments.rounds)]
    print("| beside | shadow | the camera's p50, ms | p99 | the others, frames/s | shadow's |")
    print("|---|---|---|---|---|---|")
    for which in scenes:
        of = [each[which] for each in rounds]
        print(
            f"| {which[0]} | {'yes' if which[1] else 'no'} | {median(one.shares.p50_ms for one in of):.0f} "
            f"| {median(one.shares.p99_ms for one in of):.0f} "
            f"| {median(one.shares.others for one in of):.1f} | {median(one.judged for one in of):.1f} |"
        )
    ratios = [
        each["4 streams", True].shares.others / each["4 streams", False].shares.others for each in rounds
    ]
    told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"\nFrames/s of the four streams with a shadow, of those without, round by round: {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each scene")
    parser.add_argument("--rounds", type=int, default=5)
    with tempfile.TemporaryDirectory() as made:
        bench(Path(made), parser.parse_args())


if __name__ == "__main__":
    main()
