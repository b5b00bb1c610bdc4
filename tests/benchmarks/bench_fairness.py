# SPDX-License-Identifier: Apache-2.0
"""Measure what a slow camera gets while callers of the same priority send as fast as they may.

    python -m tests.benchmarks.bench_fairness [--seconds 15] [--rounds 3]

Model and frames are those of bench_serving. The load comes from a process of its own on the same cores. The
camera sends an eighth of what the server can score. This is less than its share in every scene, so a fair
server scores all of its frames. Scenes take turns.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc.aio
import numpy as np
from tests.benchmarks import bench_serving as serving
from tests.benchmarks.bench_endurance import Frames, camera
from tests.benchmarks.report import Report, parser, section

from blemish.v1.inspection_pb2_grpc import InspectionServiceStub

_SHARE = 1 / 8
_COMPETITORS = {"none": (0, 0), "1 stream": (1, 0), "4 streams": (4, 0), "64 unary callers": (0, 64)}
"""Numbers of BLOCK streams and of unary callers on one connection, all as fast as they may."""


@dataclass(frozen=True)
class Shares:
    """The results of one scene in one round."""

    scored: float
    """Share of the camera's frames that were scored."""
    p50_ms: float
    p99_ms: float
    others: float
    """Scored frames of the competitors, per second."""


async def generated(plan: dict[str, Any]) -> Shares:
    images = [file.read_bytes() for file in sorted(Path(plan["frames"]).iterdir())]
    frames, took, refused = Frames(), list[float](), [0]
    streams, unary = _COMPETITORS[plan["competitors"]]
    alone = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
    async with (
        grpc.aio.insecure_channel(plan["address"], alone) as its,
        grpc.aio.insecure_channel(plan["address"], alone) as theirs,
    ):
        mine: Any = InspectionServiceStub(its)  # type: ignore[no-untyped-call,unused-ignore]
        stub: Any = InspectionServiceStub(theirs)  # type: ignore[no-untyped-call,unused-ignore]
        began = time.perf_counter()
        until_s = began + plan["seconds"]
        rest = (stub, plan["model"], serving.messages(Path(plan["frames"])), until_s, took, refused)
        await asyncio.gather(
            camera(mine, plan | {"streams": 1, "max_latency_ms": 0}, images, 0, until_s, frames),
            *(serving.stream(*rest) for _ in range(streams)),
            *(serving.unary(*rest) for _ in range(unary)),
        )
        span_s = time.perf_counter() - began
    p50, p99 = np.quantile(frames.latencies_s or [np.nan], [0.5, 0.99]) * 1000
    scored = len(frames.latencies_s) / frames.offered
    return Shares(scored, float(p50), float(p99), (len(took) - refused[0]) / span_s)


def measured(plan: dict[str, Any]) -> Shares:
    """Run a scene in a process of its own."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_fairness", "--generate", json.dumps(plan)],
        check=True,
        capture_output=True,
        text=True,
    )
    return Shares(**json.loads(ran.stdout))


def bench(folder: Path, arguments: argparse.Namespace, report: Report) -> None:
    surface = folder / "tile"
    model = serving.trained_surface(surface)
    serving.jpegs(surface, folder / "frames")
    with serving.running(folder) as address:
        plan = {
            "address": address,
            "model": model(address),
            "frames": str(folder / "frames"),
            "seconds": arguments.seconds,
            "rate": 1.0,
            "policy": "BLOCK",
        }
        measured(plan | {"competitors": "4 streams"})  # warm-up
        rate = measured(plan | {"competitors": "4 streams"}).others
        report.write(
            f"The server scores {rate:.1f} frames/s; the camera sends {rate * _SHARE:.1f}. "
            f"{arguments.seconds:g} s per scene, medians of {arguments.rounds} rounds.\n"
        )
        scenes = [(policy, rivals) for rivals in _COMPETITORS for policy in ("LATEST", "BLOCK", "REJECT")]
        slow = plan | {"rate": rate * _SHARE}
        rounds = [
            {
                (policy, rivals): measured(slow | {"policy": policy, "competitors": rivals})
                for policy, rivals in scenes
            }
            for _ in range(arguments.rounds)
        ]
    report.write(
        "| camera's policy | competitors | frames scored | p50, ms | p99, ms | competitors, frames/s |"
    )
    report.write("|---|---|---|---|---|---|")
    for policy, rivals in scenes:
        results = [each[policy, rivals] for each in rounds]
        report.write(
            f"| {policy} | {rivals} | {median(one.scored for one in results):.0%} "
            f"| {median(one.p50_ms for one in results):.0f} | {median(one.p99_ms for one in results):.0f} "
            f"| {median(one.others for one in results):.1f} |"
        )


def main() -> None:
    if sys.argv[1:2] == ["--generate"]:
        print(json.dumps(vars(asyncio.run(generated(json.loads(sys.argv[2]))))))
        return
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=15.0, help="length of a scene")
    options.add_argument("--rounds", type=int, default=3)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as made, section("bench_fairness", "Fairness", arguments) as report:
        bench(Path(made), arguments, report)


if __name__ == "__main__":
    main()
