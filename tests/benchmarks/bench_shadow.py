# SPDX-License-Identifier: Apache-2.0
"""Measure what a shadow version costs the version in production: latency and throughput.

    python -m tests.benchmarks.bench_shadow [--seconds 8] [--rounds 5]

Two scenes of bench_fairness: a camera alone, and the same camera together with four streams at full load.
Each runs with and without a shadow, in turn. The camera sends an eighth of what the server can score. Both
versions are PatchCore models of the synthetic tile.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import bench_serving as serving
from tests.benchmarks.bench_fairness import Shares, measured
from tests.benchmarks.report import Report, parser, section

from blemish.v1.model_pb2 import ShadowComparison
from blemish_client import Client

_COMPETITORS = ("none", "4 streams")
_SHARE = 1 / 8
_SETTLE_S = 1.5


@dataclass(frozen=True)
class Scene:
    """The results of one scene in one round."""

    shares: Shares
    compared: float
    """Frames that the shadow scored, per second."""


def compared(comparison: ShadowComparison) -> int:
    """Return how many frames both versions have scored."""
    return (
        comparison.both_normal
        + comparison.both_anomalous
        + comparison.only_shadow
        + comparison.only_production
    )


def bench(folder: Path, arguments: argparse.Namespace, report: Report) -> None:
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
        measured(plan | {"competitors": "4 streams"})  # warm-up
        rate = measured(plan | {"competitors": "4 streams"}).others * _SHARE

        def scene(competitors: str, shadow: bool) -> Scene:
            client.shadow(second, shadow)
            time.sleep(_SETTLE_S)
            before = compared(client.model(second).comparison)
            shares = measured(plan | {"competitors": competitors, "rate": rate})
            return Scene(shares, (compared(client.model(second).comparison) - before) / arguments.seconds)

        scene("none", shadow=True)  # loads the shadow
        scenes = [(competitors, shadow) for competitors in _COMPETITORS for shadow in (False, True)]
        rounds = [{which: scene(*which) for which in scenes} for _ in range(arguments.rounds)]
    report.write(f"{arguments.seconds:g} s per scene, medians of {arguments.rounds} rounds.\n")
    report.write(
        "| competitors | shadow | camera p50, ms | p99, ms | competitors, frames/s | shadow, frames/s |"
    )
    report.write("|---|---|---|---|---|---|")
    for which in scenes:
        results = [each[which] for each in rounds]
        report.write(
            f"| {which[0]} | {'yes' if which[1] else 'no'} "
            f"| {median(one.shares.p50_ms for one in results):.0f} "
            f"| {median(one.shares.p99_ms for one in results):.0f} "
            f"| {median(one.shares.others for one in results):.1f} "
            f"| {median(one.compared for one in results):.1f} |"
        )
    ratios = [
        each["4 streams", True].shares.others / each["4 streams", False].shares.others for each in rounds
    ]
    report.write(
        "\nThroughput of the four streams with a shadow, divided by that without, in each round: "
        + ", ".join(f"{ratio:.2f}" for ratio in ratios)
    )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=8.0, help="length of a scene")
    options.add_argument("--rounds", type=int, default=5)
    arguments = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as made,
        section("bench_shadow", "Shadow versions", arguments) as report,
    ):
        bench(Path(made), arguments, report)


if __name__ == "__main__":
    main()
