# SPDX-License-Identifier: Apache-2.0
"""What a camera gets that sends little, beside callers of its priority who take all there is.

    python -m tests.benchmarks.bench_fairness [--seconds 15] [--rounds 3]

The model and the frames are those of bench_serving.py, the load comes from a process of its own on the same
cores. The camera sends an eighth of what the server can score, which is less than its share in every scene:
a fair server answers it all. Scenes take turns; medians of the rounds.
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
from tests.benchmarks.bench_endurance import Told, camera

from blemish.v1.inspection_pb2_grpc import InspectionServiceStub

_SHARE = 1 / 8
_BESIDE = {"nobody": (0, 0), "1 stream": (1, 0), "4 streams": (4, 0), "64 unary calls at once": (0, 64)}
"""Streams under BLOCK, and callers on one connection, all as fast as they may."""


@dataclass(frozen=True)
class Shares:
    """What came of one scene."""

    answered: float
    """Share of the camera's frames that were scored."""
    p50_ms: float
    p99_ms: float
    others: float
    """Frames of the others, a second."""


async def generated(plan: dict[str, Any]) -> Shares:
    images = [file.read_bytes() for file in sorted(Path(plan["frames"]).iterdir())]
    told, took, refused = Told(), list[float](), [0]
    streams, unary = _BESIDE[plan["beside"]]
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
            camera(mine, plan | {"streams": 1, "max_latency_ms": 0}, images, 0, until_s, told),
            *(serving.stream(*rest) for _ in range(streams)),
            *(serving.unary(*rest) for _ in range(unary)),
        )
        span_s = time.perf_counter() - began
    p50, p99 = np.quantile(told.latencies_s or [np.nan], [0.5, 0.99]) * 1000
    return Shares(
        len(told.latencies_s) / told.offered, float(p50), float(p99), (len(took) - refused[0]) / span_s
    )


def played(plan: dict[str, Any]) -> Shares:
    """A scene, in a process of its own."""
    told = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.bench_fairness", "--generate", json.dumps(plan)],
        check=True,
        capture_output=True,
        text=True,
    )
    return Shares(**json.loads(told.stdout))


def bench(folder: Path, arguments: argparse.Namespace) -> None:
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
        played(plan | {"beside": "4 streams"})  # warms up
        rate = played(plan | {"beside": "4 streams"}).others
        print(f"The server scores {rate:.1f} frames/s; the camera sends {rate * _SHARE:.1f}.\n")
        scenes = [(policy, beside) for beside in _BESIDE for policy in ("LATEST", "BLOCK", "REJECT")]
        rounds = [
            {
                (policy, beside): played(plan | {"policy": policy, "beside": beside, "rate": rate * _SHARE})
                for policy, beside in scenes
            }
            for _ in range(arguments.rounds)
        ]
    print("| the camera | beside | of its frames scored | p50, ms | p99 | the others, frames/s |")
    print("|---|---|---|---|---|---|")
    for policy, beside in scenes:
        of = [each[policy, beside] for each in rounds]
        print(
            f"| {policy} | {beside} | {median(one.answered for one in of):.0%} "
            f"| {median(one.p50_ms for one in of):.0f} | {median(one.p99_ms for one in of):.0f} "
            f"| {median(one.others for one in of):.1f} |"
        )


def main() -> None:
    if sys.argv[1:2] == ["--generate"]:
        print(json.dumps(vars(asyncio.run(generated(json.loads(sys.argv[2]))))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each scene")
    parser.add_argument("--rounds", type=int, default=3)
    with tempfile.TemporaryDirectory() as made:
        bench(Path(made), parser.parse_args())


if __name__ == "__main__":
    main()
