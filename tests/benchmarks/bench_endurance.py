# SPDX-License-Identifier: Apache-2.0
"""What cameras may do to a server for minutes: overload it, fall asleep, stop reading, go on and on.

    python -m tests.benchmarks.bench_endurance [--overload 60] [--idle 30] [--stuck 60] [--steady 600]

The model and the frames are those of bench_serving.py, the load comes from a process of its own on the same
cores. Offered rates are open loops: frames are due when they are due, and their latency counts from there.
A frame is answered, refused, or named as dropped; what is none of these would be "untold". Memory is the
server's resident set, before and after.
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

from blemish.v1 import inspection_pb2 as pb
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub

_STREAMS = 8
_AHEAD = 8  # unanswered frames of a stream that may send as it likes, as blemish_client has it
_POLICIES = {
    "LATEST": pb.STREAM_POLICY_LATEST,
    "REJECT": pb.STREAM_POLICY_REJECT,
    "BLOCK": pb.STREAM_POLICY_BLOCK,
}


@dataclass
class Told:
    """What became of the frames of one load."""

    seconds: float = 0.0
    offered: int = 0
    dropped: int = 0
    refused: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def untold(self) -> int:
        return self.offered - self.dropped - self.refused - len(self.latencies_s)


# The load generator, in a process of its own


async def camera(
    stub: Any, plan: dict[str, Any], images: list[bytes], number: int, until_s: float, told: Told
) -> None:
    """One camera that sends ``plan["rate"]`` frames a second, or as fast as it may."""
    due: list[float] = []
    room = asyncio.Semaphore(_AHEAD)
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
            told.offered += 1
            yield pb.ScoreStreamRequest(frame=frame)

    async for answer in stub.ScoreStream(requests()):
        room.release()
        match answer.WhichOneof("answer"):
            case "inspection":
                told.latencies_s.append(time.perf_counter() - due[answer.sequence])
            case "dropped":
                told.dropped += answer.dropped.last_sequence - answer.sequence + 1
            case "refusal":
                told.refused += 1


async def asleep(stub: Any, plan: dict[str, Any], images: list[bytes], until_s: float, told: Told) -> None:
    """A camera that sends one frame and then nothing."""

    async def requests() -> AsyncIterator[pb.ScoreStreamRequest]:
        yield pb.ScoreStreamRequest(config=pb.StreamConfig(model=plan["model"]))
        frame = pb.Frame(camera="asleep")
        frame.image.encoded = images[0]
        told.offered += 1
        yield pb.ScoreStreamRequest(frame=frame)
        await asyncio.sleep(until_s - time.perf_counter())

    async for _ in stub.ScoreStream(requests()):
        told.latencies_s.append(0.0)


async def stuck(address: str, plan: dict[str, Any], frame: pb.Frame, until_s: float) -> None:
    """A camera on a connection of its own that sends as fast as it may, and reads no answer."""
    config = pb.StreamConfig(model=plan["model"], policy=pb.STREAM_POLICY_LATEST)
    config.outputs.anomaly_map = True
    request = pb.ScoreStreamRequest(frame=frame)

    async def send(call: Any) -> None:
        while True:
            await call.write(request)

    # Its side takes four answers and no more: it is stuck soon.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        call = InspectionServiceStub(channel).ScoreStream()
        await call.write(pb.ScoreStreamRequest(config=config))
        sending = asyncio.create_task(send(call))
        await asyncio.sleep(until_s - time.perf_counter())
        sending.cancel()
        call.cancel()


def of_five_megapixels(image: bytes) -> pb.Frame:
    """Return ``image`` as a large camera would send it: unpacked, 2,448 x 2,048 px."""
    frame = pb.Frame(camera="stuck")
    raw = frame.image.raw
    raw.pixel_format, raw.width, raw.height = "Mono8", 2448, 2048
    raw.data = Image.open(io.BytesIO(image)).convert("L").resize((raw.width, raw.height)).tobytes()
    return frame


async def generated(plan: dict[str, Any]) -> Told:
    images = [file.read_bytes() for file in sorted(Path(plan["frames"]).iterdir())]
    told = Told()
    async with grpc.aio.insecure_channel(plan["address"]) as channel:
        stub: Any = InspectionServiceStub(channel)
        began = time.perf_counter()
        until_s = began + plan["seconds"]
        work = [
            camera(stub, plan, images, number, until_s, told)
            for number in range(plan["streams"] if plan["rate"] is not None else 0)
        ]
        work += [asleep(stub, plan, images, until_s, told) for _ in range(plan["asleep"])]
        large = of_five_megapixels(images[0])
        work += [stuck(plan["address"], plan, large, until_s) for _ in range(plan["stuck"])]
        await asyncio.gather(*work)
        told.seconds = time.perf_counter() - began
    return told


# The scenes


@dataclass
class Scene:
    """A server under one load, and what it cost."""

    told: Told
    cores: float
    before_mib: float
    most_mib: float
    after_mib: float


@dataclass(frozen=True)
class Bench:
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
        asleep: int = 0,
        stuck: int = 0,
    ) -> Scene:
        """Load the server; ``rate`` 0 is as fast as it may, None is no camera that goes on."""
        plan = {
            "address": self.address,
            "model": self.model,
            "frames": str(self.frames),
            "seconds": seconds,
            "rate": rate,
            "policy": policy,
            "max_latency_ms": max_latency_ms,
            "streams": streams,
            "asleep": asleep,
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
        return Scene(Told(**json.loads(out)), cores, before_mib, max(most_mib, self._mib()), self._mib())

    def _mib(self) -> float:
        return float(self.process.memory_info().rss) / 2**20


def row(name: str, scene: Scene) -> str:
    told = scene.told
    cuts = np.quantile(told.latencies_s or [np.nan], [0.5, 0.95, 0.99]) * 1000
    p50, p95, p99 = (float(cut) for cut in cuts)
    return (
        f"| {name} | {told.seconds:.0f} | {told.offered / told.seconds:.1f} "
        f"| {len(told.latencies_s) / told.seconds:.1f} | {told.dropped} | {told.refused} | {told.untold} "
        f"| {p50:.0f} | {p95:.0f} | {p99:.0f} | {scene.cores:.3f} "
        f"| {scene.before_mib:.0f} | {scene.most_mib:.0f} | {scene.after_mib:.0f} |"
    )


def bench(folder: Path, arguments: argparse.Namespace) -> None:
    surface = folder / "tile"
    model = serving.trained_surface(surface)
    serving.jpegs(surface, folder / "frames")
    with serving.running(folder) as address:
        version = model(address)
        stage = Bench(serving.server_process(address), address, version, folder / "frames")
        stage.play(10, rate=0.0, policy="BLOCK")  # warms up: memory grows to what full load needs
        full = stage.play(20, rate=0.0, policy="BLOCK")
        rate = len(full.told.latencies_s) / full.told.seconds
        print(
            "| | s | offered/s | scored/s | dropped | refused | untold | p50, ms | p95 | p99 | cores "
            "| MiB before | at most | after |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        )
        print(row(f"{_STREAMS} streams, BLOCK, as fast as they may", full), flush=True)
        if arguments.overload:
            for policy in ("LATEST", "REJECT"):
                for share, seconds in ((0.8, arguments.overload / 2), (2.0, arguments.overload)):
                    scene = stage.play(seconds, rate=share * rate, policy=policy)
                    print(row(f"{_STREAMS} streams, {policy}, {share:.0%} of that", scene), flush=True)
            limit_ms = 150
            scene = stage.play(arguments.overload, rate=2 * rate, policy="REJECT", max_latency_ms=limit_ms)
            print(row(f"likewise 200%, max_latency {limit_ms} ms", scene), flush=True)
        if arguments.idle:
            print(row("64 streams asleep", stage.play(arguments.idle, asleep=64)), flush=True)
        if arguments.stuck:
            scene = stage.play(arguments.stuck, rate=0.0, policy="BLOCK", streams=4)
            print(row("4 streams, BLOCK", scene), flush=True)
            for many in (1, 32):
                scene = stage.play(arguments.stuck, rate=0.0, policy="BLOCK", streams=4, stuck=many)
                print(row(f"likewise beside {many} of 5 Mpx that never read", scene), flush=True)
        if arguments.steady:
            scene = stage.play(arguments.steady, rate=0.0, policy="BLOCK", streams=4)
            print(row("4 streams, BLOCK", scene), flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--generate"]:
        print(json.dumps(asdict(asyncio.run(generated(json.loads(sys.argv[2]))))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--overload", type=float, default=60.0, help="seconds of twice the rate; 0 skips it"
    )
    parser.add_argument("--idle", type=float, default=30.0)
    parser.add_argument("--stuck", type=float, default=60.0)
    parser.add_argument("--steady", type=float, default=600.0)
    with tempfile.TemporaryDirectory() as made:
        bench(Path(made), parser.parse_args())


if __name__ == "__main__":
    main()
