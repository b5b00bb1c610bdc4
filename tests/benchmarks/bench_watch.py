# SPDX-License-Identifier: Apache-2.0
"""Measure what watchers of inspections cost the streams, and a line with many cameras.

    python -m tests.benchmarks.bench_watch [--seconds 8] [--rounds 5]

Model and frames are those of bench_serving. Load and watchers are processes of their own on the server's
cores. Every watcher asks for thumbnails with heat, one a second of each camera and verdict. Scenes take
turns.

- Full load: 4 streams that send as fast as they may, each of a camera of its own. The scene without
  watchers runs before and after the others in each round. Shares are those of the mean of both.
- A line: 20 cameras that send a frame every two seconds each.
"""

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import grpc.aio
import psutil
from tests.benchmarks import bench_serving as serving
from tests.benchmarks.report import Report, parser, section

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish_client import AsyncClient

_MODULE = "tests.benchmarks.bench_watch"
_IN_FLIGHT = 8
_STREAMS = 4
_CAMERAS = 20
_EVERY_S = 2.0
_WATCHERS = (0, 1, 5)


@dataclass(frozen=True)
class Scene:
    """The results of one scene in one round."""

    rate: float
    """Frames scored per second."""
    server_cores: float
    watcher_cores: float
    """CPU seconds of all watchers per second."""
    events: float
    """Events of one watcher per second."""
    thumbnails: float
    """Thumbnails of one watcher per second."""
    lost: int
    """Events that the watchers lost."""


# The load, in a process of its own


async def generated(plan: dict[str, Any]) -> int:
    images = serving.messages(Path(plan["frames"]))
    until_s = time.perf_counter() + plan["seconds"]
    scored = [0]
    async with grpc.aio.insecure_channel(plan["address"]) as channel:
        stub: Any = InspectionServiceStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
        await asyncio.gather(
            *(
                _stream(stub, plan, f"camera {number}", images, until_s, scored)
                for number in range(plan["cameras"])
            )
        )
    return scored[0]


async def _stream(
    stub: Any, plan: dict[str, Any], camera: str, images: serving.Images, until_s: float, scored: list[int]
) -> None:
    room = asyncio.Semaphore(_IN_FLIGHT)

    async def requests() -> AsyncIterator[pb.ScoreStreamRequest]:
        config = pb.StreamConfig(model=plan["model"], policy=pb.STREAM_POLICY_BLOCK)
        yield pb.ScoreStreamRequest(config=config)
        for sequence, image in enumerate(itertools.cycle(images)):
            await room.acquire()
            await asyncio.sleep(plan["every_s"])
            if time.perf_counter() > until_s:
                return
            yield pb.ScoreStreamRequest(frame=pb.Frame(camera=camera, sequence=sequence, image=image))

    async for answer in stub.ScoreStream(requests()):
        scored[0] += answer.HasField("inspection")
        room.release()


# The watchers, in another process


async def watched(plan: dict[str, Any]) -> None:
    """Watch until a line arrives on stdin; print a line once all watch, and the counts at the end."""
    counts = {"events": 0, "thumbnails": 0, "lost": 0}
    ready = asyncio.Semaphore(0)

    async def watch() -> None:
        async with AsyncClient(plan["address"]) as client:
            async for response in client.watch_inspections(thumbnail=320, heat=True):
                counts["lost"] += response.lost
                match response.WhichOneof("event"):
                    case "states":
                        ready.release()
                    case "inspection":
                        counts["events"] += 1
                    case "thumbnail":
                        counts["thumbnails"] += 1

    tasks = [asyncio.create_task(watch()) for _ in range(plan["watchers"])]
    for _ in tasks:
        await ready.acquire()
    before_s = time.process_time()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print(json.dumps(counts | {"cpu_s": time.process_time() - before_s}), flush=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def watching(address: str, watchers: int, found: dict[str, float]) -> Iterator[None]:
    """Run watchers; put their counts into ``found`` at the end."""
    if not watchers:
        yield
        return
    plan = json.dumps({"address": address, "watchers": watchers})
    with subprocess.Popen(
        [sys.executable, "-m", _MODULE, "--watch", plan],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        process.stdin.write("end\n")
        process.stdin.flush()
        found.update(json.loads(process.stdout.readline()))


def measured(server: psutil.Process, plan: dict[str, Any], watchers: int) -> Scene:
    """Run a scene."""
    found: dict[str, float] = {}
    with watching(plan["address"], watchers, found):
        before = server.cpu_times()
        ran = subprocess.run(
            [sys.executable, "-m", _MODULE, "--generate", json.dumps(plan)],
            check=True,
            capture_output=True,
            text=True,
        )
        after = server.cpu_times()
    span_s = plan["seconds"]
    cores = (after.user + after.system - before.user - before.system) / span_s
    each = max(watchers, 1) * span_s
    return Scene(
        int(ran.stdout) / span_s,
        cores,
        found.get("cpu_s", 0.0) / span_s,
        found.get("events", 0) / each,
        found.get("thumbnails", 0) / each,
        int(found.get("lost", 0)),
    )


def bench(folder: Path, arguments: argparse.Namespace, report: Report) -> None:
    train = serving.trained_surface(folder / "tile")
    serving.jpegs(folder / "tile", folder / "frames")
    with serving.running(folder) as address:
        shared = {
            "address": address,
            "model": train(address),
            "frames": str(folder / "frames"),
            "seconds": arguments.seconds,
        }
        full = shared | {"cameras": _STREAMS, "every_s": 0.0}
        line = shared | {"cameras": _CAMERAS, "every_s": _EVERY_S}
        server = serving.server_process(address)
        measured(server, full, 1)  # warm-up
        loads = {"full": [*_WATCHERS, 0], "line": list(_WATCHERS)}
        rounds: dict[str, list[list[Scene]]] = {"full": [], "line": []}
        for _ in range(arguments.rounds):
            for name, plan in (("full", full), ("line", line)):
                rounds[name].append([measured(server, plan, watchers) for watchers in loads[name]])
    report.write(f"{arguments.seconds:g} s per scene, medians of {arguments.rounds} rounds.\n")
    report.write(f"### {_STREAMS} streams at full load\n")
    report.write(
        "| watchers | frames/s | share of the rate without | server CPU per frame, ms "
        "| share of that without | events/s | thumbnails/s | lost |"
    )
    report.write("|---|---|---|---|---|---|---|---|")
    for place, watchers in enumerate(loads["full"]):
        scenes = [each[place] for each in rounds["full"]]
        shares = [each[place].rate / mean([each[0].rate, each[-1].rate]) for each in rounds["full"]]
        costs = [
            _per_frame_ms(each[place]) / mean([_per_frame_ms(each[0]), _per_frame_ms(each[-1])])
            for each in rounds["full"]
        ]
        report.write(
            f"| {watchers}{', again' if place == len(_WATCHERS) else ''} "
            f"| {median(one.rate for one in scenes):.1f} | {median(shares):.3f} "
            f"| {median(map(_per_frame_ms, scenes)):.1f} | {median(costs):.3f} | {_received(scenes)} |"
        )
    report.write(f"\n### {_CAMERAS} cameras with a frame every {_EVERY_S:g} s\n")
    report.write(
        "| watchers | frames/s | server cores | cores of each watcher | events/s | thumbnails/s | lost |"
    )
    report.write("|---|---|---|---|---|---|---|")
    for place, watchers in enumerate(loads["line"]):
        scenes = [each[place] for each in rounds["line"]]
        own = median(one.watcher_cores for one in scenes) / max(watchers, 1)
        report.write(
            f"| {watchers} | {median(one.rate for one in scenes):.1f} "
            f"| {median(one.server_cores for one in scenes):.3f} | {own:.3f} | {_received(scenes)} |"
        )


def _per_frame_ms(scene: Scene) -> float:
    return 1000 * scene.server_cores / scene.rate


def _received(scenes: list[Scene]) -> str:
    return (
        f"{median(one.events for one in scenes):.1f} | {median(one.thumbnails for one in scenes):.1f} "
        f"| {sum(one.lost for one in scenes)}"
    )


def main() -> None:
    if sys.argv[1:2] == ["--generate"]:
        print(asyncio.run(generated(json.loads(sys.argv[2]))))
        return
    if sys.argv[1:2] == ["--watch"]:
        asyncio.run(watched(json.loads(sys.argv[2])))
        return
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=8.0, help="length of a scene")
    options.add_argument("--rounds", type=int, default=5)
    arguments = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as made,
        section("bench_watch", "Watching inspections", arguments) as report,
    ):
        bench(Path(made), arguments, report)


if __name__ == "__main__":
    main()
