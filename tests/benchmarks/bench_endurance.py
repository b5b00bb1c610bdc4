# SPDX-License-Identifier: Apache-2.0
"""Measure a server under overload, idle streams, clients that stop reading, and long steady load.

    python -m tests.benchmarks.bench_endurance [--overload 60] [--idle 30] [--stuck 60] [--steady 600]

Model and frames are those of bench_serving. The load comes from a process of its own on the same cores.
Offered rates are open loops: frames are sent on schedule, and latency counts from the scheduled time. Each
frame is scored, rejected or reported as dropped; any other frame counts as "unanswered". Memory is the
server's resident set.
"""

import argparse
import asyncio
import io
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import psutil
from PIL import Image
from tests.benchmarks import bench_serving as serving
from tests.benchmarks.report import Report, parser, section

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub

_STREAMS = 8
_IN_FLIGHT = 8  # unanswered frames of a stream without a rate, as in blemish_client
_POLICIES = {
    "LATEST": pb.STREAM_POLICY_LATEST,
    "REJECT": pb.STREAM_POLICY_REJECT,
    "BLOCK": pb.STREAM_POLICY_BLOCK,
}


@dataclass
class Frames:
    """The outcomes of the frames of one load."""

    seconds: float = 0.0
    offered: int = 0
    dropped: int = 0
    refused: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def unanswered(self) -> int:
        return self.offered - self.dropped - self.refused - len(self.latencies_s)


# The load generator, in a process of its own


async def camera(
    stub: Any, plan: dict[str, Any], images: list[bytes], number: int, until_s: float, frames: Frames
) -> None:
    """Run one camera that sends ``plan["rate"]`` frames per second; 0 means as fast as it may."""
    due: list[float] = []
    room = asyncio.Semaphore(_IN_FLIGHT)
    rate = plan["rate"] / plan["streams"]
    began = time.perf_counter() + (number / plan["streams"] / rate if rate else 0.0)

    async def requests() -> AsyncIterator[pb.ScoreStreamRequest]:
        config = pb.StreamConfig(model=plan["model"], policy=_POLICIES[plan["policy"]])
        config.max_latency.FromMilliseconds(plan["max_latency_ms"])
        yield pb.ScoreStreamRequest(config=config)
        for sequence, image in enumerate(itertools.cycle(images)):
            if not rate:
                await room.acquire()
            due.append(began + sequence / rate if rate else time.perf_counter())
            await asyncio.sleep(max(0.0, due[-1] - time.perf_counter()))
            if time.perf_counter() > until_s:
                return
            frame = pb.Frame(camera=f"bench {number}", sequence=sequence)
            frame.image.encoded = image
            frames.offered += 1
            yield pb.ScoreStreamRequest(frame=frame)

    async for answer in stub.ScoreStream(requests()):
        room.release()
        match answer.WhichOneof("answer"):
            case "inspection":
                frames.latencies_s.append(time.perf_counter() - due[answer.sequence])
            case "dropped":
                frames.dropped += answer.dropped.last_sequence - answer.sequence + 1
            case "refusal":
                frames.refused += 1


async def idle(
    stub: Any, plan: dict[str, Any], images: list[bytes], until_s: float, frames: Frames
) -> None:
    """Run one camera that sends a single frame and then nothing."""

    async def requests() -> AsyncIterator[pb.ScoreStreamRequest]:
        yield pb.ScoreStreamRequest(config=pb.StreamConfig(model=plan["model"]))
        frame = pb.Frame(camera="idle")
        frame.image.encoded = images[0]
        frames.offered += 1
        yield pb.ScoreStreamRequest(frame=frame)
        await asyncio.sleep(until_s - time.perf_counter())

    async for _ in stub.ScoreStream(requests()):
        frames.latencies_s.append(0.0)


async def stuck(address: str, plan: dict[str, Any], frame: pb.Frame, until_s: float) -> None:
    """Run one camera on a connection of its own that sends as fast as it may and reads no response."""
    config = pb.StreamConfig(model=plan["model"], policy=pb.STREAM_POLICY_LATEST)
    config.outputs.anomaly_map = True
    request = pb.ScoreStreamRequest(frame=frame)

    async def send(call: Any) -> None:
        while True:
            await call.write(request)

    # Without the probe the receive window stays small and is full after four responses.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        call = InspectionServiceStub(channel).ScoreStream()
        await call.write(pb.ScoreStreamRequest(config=config))
        sending = asyncio.create_task(send(call))
        await asyncio.sleep(until_s - time.perf_counter())
        sending.cancel()
        call.cancel()


def large_frame(image: bytes) -> pb.Frame:
    """Return ``image`` as a 5 Mpx camera sends it: unpacked, 2,448 x 2,048 px."""
    frame = pb.Frame(camera="stuck")
    raw = frame.image.raw
    raw.pixel_format, raw.width, raw.height = "Mono8", 2448, 2048
    raw.data = Image.open(io.BytesIO(image)).convert("L").resize((raw.width, raw.height)).tobytes()
    return frame


async def generated(plan: dict[str, Any]) -> Frames:
    images = [file.read_bytes() for file in sorted(Path(plan["frames"]).iterdir())]
    frames = Frames()
    async with grpc.aio.insecure_channel(plan["address"]) as channel:
        stub: Any = InspectionServiceStub(channel)
        began = time.perf_counter()
        until_s = began + plan["seconds"]
        work = [
            camera(stub, plan, images, number, until_s, frames)
            for number in range(plan["streams"] if plan["rate"] is not None else 0)
        ]
        work += [idle(stub, plan, images, until_s, frames) for _ in range(plan["idle"])]
        large = large_frame(images[0])
        work += [stuck(plan["address"], plan, large, until_s) for _ in range(plan["stuck"])]
        await asyncio.gather(*work)
        frames.seconds = time.perf_counter() - began
    return frames


# The scenes


@dataclass
class Scene:
    """The results of one load on the server."""

    frames: Frames
    cores: float
    before_mib: float
    most_mib: float
    after_mib: float


@dataclass(frozen=True)
class Bench:
    """A running server and the load for it."""

    process: psutil.Process
    address: str
    model: str
    frames: Path

    def play(
        self,
        seconds: float,
        *,
        rate: float | None = None,
        policy: str = "LATEST",
        max_latency_ms: int = 0,
        streams: int = _STREAMS,
        idle: int = 0,
        stuck: int = 0,
    ) -> Scene:
        """Load the server; ``rate`` 0 means as fast as it may, None means no camera that sends steadily."""
        plan = {
            "address": self.address,
            "model": self.model,
            "frames": str(self.frames),
            "seconds": seconds,
            "rate": rate,
            "policy": policy,
            "max_latency_ms": max_latency_ms,
            "streams": streams,
            "idle": idle,
            "stuck": stuck,
        }
        before_mib = self._mib()
        load = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.bench_endurance", "--generate", json.dumps(plan)],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(min(3.0, seconds / 4))  # the generator has to start
        times, began = self.process.cpu_times(), time.perf_counter()
        most_mib = self._mib()
        end = began + seconds * 0.7
        while load.poll() is None and time.perf_counter() < end:
            time.sleep(0.25)
            most_mib = max(most_mib, self._mib())
        after, span_s = self.process.cpu_times(), time.perf_counter() - began
        cores = (after.user + after.system - times.user - times.system) / span_s
        out, _ = load.communicate()
        if load.returncode:
            raise SystemExit("the load generator failed")
        return Scene(Frames(**json.loads(out)), cores, before_mib, max(most_mib, self._mib()), self._mib())

    def _mib(self) -> float:
        return float(self.process.memory_info().rss) / 2**20


def row(name: str, scene: Scene) -> str:
    frames = scene.frames
    cuts = np.quantile(frames.latencies_s or [np.nan], [0.5, 0.95, 0.99]) * 1000
    p50, p95, p99 = (float(cut) for cut in cuts)
    return (
        f"| {name} | {frames.seconds:.0f} | {frames.offered / frames.seconds:.1f} "
        f"| {len(frames.latencies_s) / frames.seconds:.1f} | {frames.dropped} | {frames.refused} "
        f"| {frames.unanswered} "
        f"| {p50:.0f} | {p95:.0f} | {p99:.0f} | {scene.cores:.3f} "
        f"| {scene.before_mib:.0f} | {scene.most_mib:.0f} | {scene.after_mib:.0f} |"
    )


def bench(folder: Path, arguments: argparse.Namespace, report: Report) -> None:
    surface = folder / "tile"
    model = serving.trained_surface(surface)
    serving.jpegs(surface, folder / "frames")
    with serving.running(folder) as address:
        version = model(address)
        stage = Bench(serving.server_process(address), address, version, folder / "frames")
        stage.play(10, rate=0.0, policy="BLOCK")  # warm-up: memory grows to what full load needs
        full = stage.play(20, rate=0.0, policy="BLOCK")
        rate = len(full.frames.latencies_s) / full.frames.seconds
        report.write(
            "| | s | offered/s | scored/s | dropped | rejected | unanswered | p50, ms | p95 | p99 | cores "
            "| MiB before | maximum | after |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        )
        report.write(row(f"{_STREAMS} streams, BLOCK, as fast as they may (full rate)", full))
        if arguments.overload:
            for policy in ("LATEST", "REJECT"):
                for share, seconds in ((0.8, arguments.overload / 2), (2.0, arguments.overload)):
                    scene = stage.play(seconds, rate=share * rate, policy=policy)
                    report.write(row(f"{_STREAMS} streams, {policy}, {share:.0%} of full rate", scene))
            limit_ms = 150
            scene = stage.play(arguments.overload, rate=2 * rate, policy="REJECT", max_latency_ms=limit_ms)
            label = f"{_STREAMS} streams, REJECT, 200% of full rate, max_latency {limit_ms} ms"
            report.write(row(label, scene))
        if arguments.idle:
            report.write(row("64 idle streams", stage.play(arguments.idle, idle=64)))
        if arguments.stuck:
            scene = stage.play(arguments.stuck, rate=0.0, policy="BLOCK", streams=4)
            report.write(row("4 streams, BLOCK", scene))
            for many in (1, 32):
                scene = stage.play(arguments.stuck, rate=0.0, policy="BLOCK", streams=4, stuck=many)
                report.write(row(f"4 streams, BLOCK, and {many} of 5 Mpx that never read", scene))
        if arguments.steady:
            scene = stage.play(arguments.steady, rate=0.0, policy="BLOCK", streams=4)
            report.write(row("4 streams, BLOCK, steady", scene))


def main() -> None:
    if sys.argv[1:2] == ["--generate"]:
        print(json.dumps(asdict(asyncio.run(generated(json.loads(sys.argv[2]))))))
        return
    options = parser(__doc__)
    options.add_argument(
        "--overload", type=float, default=60.0, help="seconds at twice the rate; 0 skips it"
    )
    options.add_argument("--idle", type=float, default=30.0, help="seconds of idle streams; 0 skips it")
    options.add_argument("--stuck", type=float, default=60.0, help="seconds of stuck clients; 0 skips it")
    options.add_argument("--steady", type=float, default=600.0, help="seconds of steady load; 0 skips it")
    arguments = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as made,
        section("bench_endurance", "Endurance", arguments) as report,
    ):
        bench(Path(made), arguments, report)


if __name__ == "__main__":
    main()
