# SPDX-License-Identifier: Apache-2.0
"""What serving costs: frames through a running server beside the same frames with no server.

    python -m tests.benchmarks.bench_serving [--large] [--streams 1 4 16 64] [--seconds 8] [--rounds 5]

PatchCore with a bank of about 10,000, JPEG frames of 512 px, or with --large the samples of a camera, Mono8
of 2,448 x 2,048 px. Closed loops: every stream and every unary caller sends its next frame when there is
room. Load comes from a process of its own, on the same cores as the server; the limit, the same frames
decoded and scored in this process, has these cores alone. All rows take turns, each figure is the median of
the rounds. CPU and memory are those of the server process.
"""

import argparse
import asyncio
import importlib
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import grpc.aio
import numpy as np
import psutil
from PIL import Image

from blemish.v1 import image_pb2
from blemish.v1 import inspection_pb2 as pb
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish_client import Client
from blemish_client.demo.surfaces import generate
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput, RawLayout
from blemish_core.platform import threads

_TRAIN_IMAGES = 122  # of which 98 are learned from: a tenth of their patches is a bank of 10,035
_FRAMES = 64
_LARGE_FRAMES = 8
_LARGE = RawLayout("Mono8", 2448, 2048)
_AHEAD = 8  # unanswered frames of a stream, as blemish_client has it

Images = list[image_pb2.Image]


@dataclass(frozen=True)
class Load:
    """What came of one round of load."""

    rate: float
    """Frames a second."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: int
    cores: float = 0.0
    """Of the server, while it lasted."""
    resident_mib: float = 0.0


def load(latencies_s: list[float], span_s: float, refused: int) -> Load:
    p50, p95, p99 = (float(cut) * 1000 for cut in np.quantile(latencies_s, [0.5, 0.95, 0.99]))
    return Load(len(latencies_s) / span_s, p50, p95, p99, refused)


# The load generator, in a process of its own


async def stream(
    stub: Any, model: str, images: Images, until_s: float, took: list[float], refused: list[int]
) -> None:
    """One camera that holds ``_AHEAD`` frames in flight."""
    room, sent = asyncio.Semaphore(_AHEAD), []

    async def requests() -> AsyncIterator[pb.ScoreStreamRequest]:
        yield pb.ScoreStreamRequest(config=pb.StreamConfig(model=model, policy=pb.STREAM_POLICY_BLOCK))
        for sequence, image in enumerate(itertools.cycle(images)):
            await room.acquire()
            if time.perf_counter() > until_s:
                return
            frame = pb.Frame(camera="bench", sequence=sequence, image=image)
            sent.append(time.perf_counter())
            yield pb.ScoreStreamRequest(frame=frame)

    async for answer in stub.ScoreStream(requests()):
        took.append(time.perf_counter() - sent[answer.sequence])
        refused[0] += not answer.HasField("inspection")
        room.release()


async def unary(
    stub: Any, model: str, images: Images, until_s: float, took: list[float], refused: list[int]
) -> None:
    """One caller that waits for its answer before it calls again."""
    for image in itertools.cycle(images):
        if time.perf_counter() > until_s:
            return
        request = pb.ScoreRequest(model=model, image=image)
        before = time.perf_counter()
        try:
            await stub.Score(request)
        except grpc.aio.AioRpcError:
            refused[0] += 1
        took.append(time.perf_counter() - before)


async def generated(
    address: str, model: str, folder: Path, kind: str, callers: int, seconds: float
) -> Load:
    images = messages(folder)
    caller = stream if kind == "stream" else unary
    took: list[float] = []
    refused = [0]
    async with grpc.aio.insecure_channel(address) as channel:
        stub = InspectionServiceStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
        began = time.perf_counter()
        await asyncio.gather(
            *(caller(stub, model, images, began + seconds, took, refused) for _ in range(callers))
        )
    return load(took, time.perf_counter() - began, refused[0])


# The rows


def served(
    server: psutil.Process, address: str, model: str, folder: Path, kind: str, callers: int, seconds: float
) -> Load:
    """Load from another process, and what it cost the server."""
    before, began = server.cpu_times(), time.perf_counter()
    arguments = (address, model, str(folder), kind, str(callers), str(seconds))
    told = subprocess.run(
        [sys.executable, __file__, "--generate", *arguments], check=True, capture_output=True, text=True
    )
    after, span_s = server.cpu_times(), time.perf_counter() - began
    cores = (after.user + after.system - before.user - before.system) / span_s
    found = json.loads(told.stdout) | {"cores": cores, "resident_mib": server.memory_info().rss / 2**20}
    return Load(**found)


def in_process(version: Path, frames: Path, workers: int, seconds: float) -> Load:
    """The same frames with no server, in a process whose threads share the cores as the server's do."""
    told = subprocess.run(
        [sys.executable, __file__, "--limit", str(version), str(frames), str(workers), str(seconds)],
        check=True,
        capture_output=True,
        text=True,
    )
    return Load(**json.loads(told.stdout))


def limit(version: Path, frames: Path, workers: int, seconds: float) -> Load:
    threads.use_passive_waiting()
    threads.share_cores(workers)
    from blemish_core.models.loading import load_detector
    from blemish_core.runtimes.choice import RuntimeChoice

    _, detector = load_detector(version, "cpu", RuntimeChoice(lanes=workers))

    def inspect(picture: ImageInput) -> object:
        return detector.inspect([detector.prepare(picture.pixels(ImageLimits()))])

    images = pictures(frames)
    repeated(inspect, images, workers, 1.0)  # warms up
    return repeated(inspect, images, workers, seconds)


def repeated(
    inspect: Callable[[ImageInput], object], images: list[ImageInput], workers: int, seconds: float
) -> Load:
    """``workers`` threads that decode and score one frame after the other."""
    took: list[float] = []
    frames = itertools.cycle(images)
    began = time.perf_counter()

    def work() -> None:
        while time.perf_counter() - began < seconds:
            before = time.perf_counter()
            inspect(next(frames))
            took.append(time.perf_counter() - before)

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work) for _ in range(workers)]:
            done.result()
    return load(took, time.perf_counter() - began, 0)


def anomalibs(version: Path, folder: Path) -> Callable[[ImageInput], object]:
    """Run anomalib's OpenVINOInferencer with the same weights in float32, and a bank of as many entries."""
    from anomalib.models import Patchcore

    from blemish_core.detectors.common.backbone import Backbone
    from blemish_core.models.loading import load_detector
    from blemish_core.runtimes.choice import RuntimeChoice

    loaded: Any = load_detector(version, "cpu", RuntimeChoice("torch"))
    detector = loaded[1]

    # Only where it is asked for: the others of its runtimes take seconds to import.
    runtimes = importlib.import_module("tests.benchmarks.bench_runtimes")

    backbone = Backbone.named(detector.settings["backbone"])
    module = Patchcore(
        backbone=backbone.timm_name,
        layers=list(backbone.layers),
        pre_trained=False,
        num_neighbors=detector.settings["neighbors"],
        visualizer=False,
        evaluator=False,
    )
    weights = detector._torch.model.state_dict()
    bank = runtimes.of_two_stages(weights.pop("memory_bank"), module)
    module.model.load_state_dict(weights | {"memory_bank": bank})
    predict = runtimes.anomalibs(module, folder)["anomalib OpenVINO f32"]
    side = detector.input_size

    def scaled(picture: ImageInput) -> object:
        # It takes the size that it was exported for and no other.
        pixels = picture.pixels(ImageLimits())
        return predict(np.asarray(Image.fromarray(pixels).resize((side, side))))

    return scaled


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The stack, as ``blemish up`` starts it."""
    address = folder / "address"
    stack = subprocess.Popen(
        [
            *(sys.executable, "-m", "blemish_local", "up", "--quiet"),
            *("--data", str(folder / "data"), "--listen", "127.0.0.1:0"),
            *("--address-file", str(address), "--import-root", str(folder)),
        ]
    )
    try:
        while not address.exists():
            if stack.poll() is not None:
                raise SystemExit("the stack did not start")
            time.sleep(0.1)
        yield address.read_text().strip()
    finally:
        stack.terminate()
        stack.wait(60)


def trained_surface(surface: Path) -> Callable[[str], str]:
    """Draw the surface; the answer trains a model of it at an address and returns its version's name."""
    generate(surface, "tile", train=_TRAIN_IMAGES, good=20, defective=24)

    def train(address: str) -> str:
        with Client(address) as client:
            client.import_dataset("tile", str(surface))
            job = client.wait(client.train("tile"))
        if job.error:
            raise SystemExit(job.error)
        return str(job.result.model_version)

    return train


def jpegs(surface: Path, folder: Path) -> None:
    """Leave JPEG frames of 512 px in a folder, of good and of defective surface."""
    folder.mkdir()
    files = sorted((surface / "test").glob("*/*.png"))
    for number, file in zip(range(_FRAMES), itertools.cycle(files), strict=False):
        buffer = io.BytesIO()
        Image.open(file).convert("RGB").resize((512, 512)).save(buffer, "JPEG", quality=92)
        (folder / f"{number:03}.jpg").write_bytes(buffer.getvalue())


def large(surface: Path, folder: Path) -> None:
    """Leave frames of ``_LARGE`` in a folder, of good and of defective surface."""
    folder.mkdir()
    for file in sorted((surface / "test").glob("*/*.png"))[::3][:_LARGE_FRAMES]:
        grey = Image.open(file).convert("L").resize((_LARGE.width, _LARGE.height))
        (folder / f"{file.parent.name}-{file.stem}.raw").write_bytes(grey.tobytes())


def pictures(folder: Path) -> list[ImageInput]:
    """The frames of a folder, in their order."""
    return [
        ImageInput(file.read_bytes(), _LARGE if file.suffix == ".raw" else None)
        for file in sorted(folder.iterdir())
    ]


def messages(folder: Path) -> Images:
    """Likewise, as cameras send them."""
    images = []
    for picture in pictures(folder):
        if picture.layout is None:
            images.append(image_pb2.Image(encoded=picture.data))
        else:
            layout = asdict(picture.layout)
            images.append(image_pb2.Image(raw=image_pb2.RawImage(data=picture.data, **layout)))
    return images


def server_process(stack_address: str) -> psutil.Process:
    port = int(stack_address.rpartition(":")[2])
    for process in psutil.process_iter(["cmdline"]):
        if "blemish_server" in (process.info["cmdline"] or []):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return process
    raise SystemExit("the server's process was not found")


def bench(folder: Path, arguments: argparse.Namespace) -> None:
    surface = folder / "tile"
    train = trained_surface(surface)
    (large if arguments.large else jpegs)(surface, folder / "frames")
    with running(folder) as address:
        model = train(address)
        version = folder / "data/store/models/tile-patchcore/1"
        process, seconds, cores = server_process(address), arguments.seconds, os.cpu_count() or 1
        rows: dict[str, Callable[[], Load]] = {
            "in process, one by one": partial(in_process, version, folder / "frames", 1, seconds),
            f"in process, {cores} at once": partial(in_process, version, folder / "frames", cores, seconds),
            "anomalib OpenVINOInferencer, one by one": partial(
                repeated, anomalibs(version, folder), pictures(folder / "frames"), 1, seconds
            ),
        }
        for kind in ("stream", "unary"):
            for callers in arguments.streams:
                label = f"{callers} {'streams' if kind == 'stream' else 'unary callers'}"
                rows[label] = partial(
                    served, process, address, model, folder / "frames", kind, callers, seconds
                )
        rounds: dict[str, list[Load]] = {name: [] for name in rows}
        for _ in range(arguments.rounds):
            for name, row in rows.items():
                rounds[name].append(row())
    show(rounds, arguments)


def show(rounds: dict[str, list[Load]], arguments: argparse.Namespace) -> None:
    def of(name: str, figure: str) -> float:
        return float(median(getattr(one, figure) for one in rounds[name]))

    limits = [name for name in rounds if name.startswith("in process")]
    limit = max(of(name, "rate") for name in limits)
    print(
        f"{os.cpu_count()} cores; {arguments.seconds:g} s a row, medians of {arguments.rounds} rounds; "
        "of the limit: the better of the two rows in process\n"
    )
    print("| | frames/s | of the limit | p50, ms | p95 | p99 | refused | server: cores | MiB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in rounds:
        rate, p50, p95, p99 = (of(name, figure) for figure in ("rate", "p50_ms", "p95_ms", "p99_ms"))
        server = (
            f"{of(name, 'cores'):.2f} | {of(name, 'resident_mib'):.0f}" if of(name, "cores") else "- | -"
        )
        print(
            f"| {name} | {rate:.1f} | {rate / limit:.2f} | {p50:.0f} | {p95:.0f} | {p99:.0f} "
            f"| {of(name, 'refused'):.0f} | {server} |",
            flush=True,
        )


def main() -> None:
    if sys.argv[1:2] == ["--limit"]:
        version, frames, workers, seconds = sys.argv[2:]
        told = limit(Path(version), Path(frames), int(workers), float(seconds))
        print(json.dumps(asdict(told)))
        return
    if sys.argv[1:2] == ["--generate"]:
        address, model, folder, kind, callers, seconds = sys.argv[2:]
        told = asyncio.run(generated(address, model, Path(folder), kind, int(callers), float(seconds)))
        print(json.dumps(asdict(told)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--large", action="store_true", help="frames of 5 Mpx")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    with tempfile.TemporaryDirectory() as made:
        bench(Path(made), parser.parse_args())


if __name__ == "__main__":
    main()
