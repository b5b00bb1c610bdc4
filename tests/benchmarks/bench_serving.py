# SPDX-License-Identifier: Apache-2.0
"""Measure throughput and latency of a running server against scoring the same frames without a server.

    python -m tests.benchmarks.bench_serving [--large] [--streams 1 4 16 64] [--seconds 8] [--rounds 5]

The model is a PatchCore with a bank of about 10,000 entries. Frames are JPEGs of 512 px, or with --large
unpacked Mono8 frames of 2,448 x 2,048 px. All loads are closed loops: a stream or unary caller sends its
next frame when a frame has been answered. The load generator is a process of its own on the server's cores.
The limit is measured without load generator and server, so it has these cores to itself. Rows take turns,
and each figure is the median of the rounds. CPU and memory are those of the server process.
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
from tests.benchmarks.report import Report, parser, section

from blemish.v1 import image_pb2
from blemish.v1 import inspection_pb2 as pb
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish_client import Client
from blemish_client.demo.surfaces import generate
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput, RawLayout
from blemish_core.platform import threads

_TRAIN_IMAGES = 122  # less the fifth that is held out, a tenth of their patches is a bank of about 10,000
_FRAMES = 64
_LARGE_FRAMES = 8
_LARGE = RawLayout("Mono8", 2448, 2048)
_IN_FLIGHT = 8  # unanswered frames of a stream, as in blemish_client
_MODULE = "tests.benchmarks.bench_serving"

Images = list[image_pb2.Image]


@dataclass(frozen=True)
class Load:
    """The results of one row in one round."""

    rate: float
    """Frames per second."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: int
    cores: float = 0.0
    """CPU seconds of the server per second of load."""
    resident_mib: float = 0.0


def summarized(latencies_s: list[float], span_s: float, refused: int) -> Load:
    p50, p95, p99 = (float(cut) * 1000 for cut in np.quantile(latencies_s, [0.5, 0.95, 0.99]))
    return Load(len(latencies_s) / span_s, p50, p95, p99, refused)


# The load generator, in a process of its own


async def stream(
    stub: Any, model: str, images: Images, until_s: float, took: list[float], refused: list[int]
) -> None:
    """Run one camera that keeps ``_IN_FLIGHT`` frames unanswered."""
    room, sent = asyncio.Semaphore(_IN_FLIGHT), []

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
    """Run one caller that waits for each response before its next call."""
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
    return summarized(took, time.perf_counter() - began, refused[0])


# The rows of the table


def served(
    server: psutil.Process, address: str, model: str, folder: Path, kind: str, callers: int, seconds: float
) -> Load:
    """Load the server from another process, and measure what that takes of the server."""
    before, began = server.cpu_times(), time.perf_counter()
    arguments = (address, model, str(folder), kind, str(callers), str(seconds))
    ran = subprocess.run(
        [sys.executable, "-m", _MODULE, "--generate", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    after, span_s = server.cpu_times(), time.perf_counter() - began
    cores = (after.user + after.system - before.user - before.system) / span_s
    found = json.loads(ran.stdout) | {"cores": cores, "resident_mib": server.memory_info().rss / 2**20}
    return Load(**found)


def in_process(version: Path, frames: Path, workers: int, seconds: float) -> Load:
    """Score the same frames without a server, in a process whose threads share the cores as in a server."""
    arguments = (str(version), str(frames), str(workers), str(seconds))
    ran = subprocess.run(
        [sys.executable, "-m", _MODULE, "--limit", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return Load(**json.loads(ran.stdout))


def limit(version: Path, frames: Path, workers: int, seconds: float) -> Load:
    threads.use_passive_waiting()
    threads.share_cores(workers)
    threads.disable_opencv_threads()
    threads.disable_blas_threads()
    from blemish_core.runtimes.choice import RuntimeChoice
    from blemish_core.serving.loading import load_for_serving

    _, detector = load_for_serving(version, "cpu", RuntimeChoice(lanes=workers))

    def score(image: ImageInput) -> object:
        return detector.predict([detector.prepare(image.pixels(ImageLimits()))])

    images = read_frames(frames)
    repeated(score, images, workers, 1.0)  # warm-up
    return repeated(score, images, workers, seconds)


def repeated(
    score: Callable[[ImageInput], object], images: list[ImageInput], workers: int, seconds: float
) -> Load:
    """Decode and score one frame after the other in each of ``workers`` threads."""
    took: list[float] = []
    frames = itertools.cycle(images)
    began = time.perf_counter()

    def work() -> None:
        while time.perf_counter() - began < seconds:
            before = time.perf_counter()
            score(next(frames))
            took.append(time.perf_counter() - before)

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work) for _ in range(workers)]:
            done.result()
    return summarized(took, time.perf_counter() - began, 0)


def anomalib_scorers(version: Path, folder: Path) -> dict[str, Callable[[ImageInput], object]]:
    """Return anomalib's inferencers in float32, with the same weights and inputs, and an equal bank."""
    from anomalib.models import Patchcore

    from blemish_core.detectors.common.backbone import Backbone
    from blemish_core.models.loading import load_detector
    from blemish_core.runtimes.choice import RuntimeChoice

    loaded: Any = load_detector(version, "cpu", RuntimeChoice("torch"))
    detector = loaded[1]

    # Imported here because the runtimes that it compares take seconds to import.
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
    side = detector.input_size
    inferencers = runtimes.anomalibs(module, folder, side)

    def scaled(predict: Callable[[Any], object], image: ImageInput) -> object:
        # The exported model accepts one input size only.
        pixels = image.pixels(ImageLimits())
        return predict(np.asarray(Image.fromarray(pixels).resize((side, side))))

    names = {"OpenVINOInferencer": "anomalib OpenVINO f32", "TorchInferencer": "anomalib torch"}
    return {name: partial(scaled, inferencers[each]) for name, each in names.items()}


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run the stack as ``blemish up`` starts it; yield the server's address."""
    address = folder / "address"
    stack = subprocess.Popen(
        [
            *(sys.executable, "-m", "blemish_local", "up", "--no-console", "--quiet"),
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
    """Draw the surface; return a function that trains a model of it at an address and returns its name."""
    # The scale of the input is learned from these images, so they are as large as the frames.
    generate(surface, "tile", train=_TRAIN_IMAGES, good=20, defective=24, size=512)

    def train(address: str) -> str:
        with Client(address) as client:
            client.import_dataset("tile", str(surface))
            job = client.wait(client.train("tile"))
        if job.error:
            raise SystemExit(job.error)
        return str(job.result.model_version)

    return train


def jpegs(surface: Path, folder: Path) -> None:
    """Write JPEG frames of 512 px of good and defective surface to a folder."""
    folder.mkdir()
    files = sorted((surface / "test").glob("*/*.png"))
    for number, file in zip(range(_FRAMES), itertools.cycle(files), strict=False):
        buffer = io.BytesIO()
        Image.open(file).convert("RGB").resize((512, 512)).save(buffer, "JPEG", quality=92)
        (folder / f"{number:03}.jpg").write_bytes(buffer.getvalue())


def large(surface: Path, folder: Path) -> None:
    """Write unpacked frames of ``_LARGE`` of good and defective surface to a folder."""
    folder.mkdir()
    for file in sorted((surface / "test").glob("*/*.png"))[::3][:_LARGE_FRAMES]:
        grey = Image.open(file).convert("L").resize((_LARGE.width, _LARGE.height))
        (folder / f"{file.parent.name}-{file.stem}.raw").write_bytes(grey.tobytes())


def read_frames(folder: Path) -> list[ImageInput]:
    """Return the frames of a folder, in order of their names."""
    return [
        ImageInput(file.read_bytes(), _LARGE if file.suffix == ".raw" else None)
        for file in sorted(folder.iterdir())
    ]


def messages(folder: Path) -> Images:
    """Return the frames of a folder as messages."""
    images = []
    for frame in read_frames(folder):
        if frame.layout is None:
            images.append(image_pb2.Image(encoded=frame.data))
        else:
            layout = asdict(frame.layout)
            images.append(image_pb2.Image(raw=image_pb2.RawImage(data=frame.data, **layout)))
    return images


def server_process(stack_address: str) -> psutil.Process:
    """Return the process that listens on the address."""
    port = int(stack_address.rpartition(":")[2])
    for process in psutil.process_iter(["cmdline"]):
        if "blemish_server" in (process.info["cmdline"] or []):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return process
    raise SystemExit("the server's process was not found")


def bench(folder: Path, arguments: argparse.Namespace) -> dict[str, list[Load]]:
    """Return the results of each row, one for each round."""
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
                repeated,
                anomalib_scorers(version, folder)["OpenVINOInferencer"],
                read_frames(folder / "frames"),
                1,
                seconds,
            ),
        }
        for kind in ("stream", "unary"):
            for callers in arguments.streams:
                noun = "stream" if kind == "stream" else "unary caller"
                label = f"{callers} {noun}{'s' if callers > 1 else ''}"
                rows[label] = partial(
                    served, process, address, model, folder / "frames", kind, callers, seconds
                )
        rounds: dict[str, list[Load]] = {name: [] for name in rows}
        for _ in range(arguments.rounds):
            for name, row in rows.items():
                rounds[name].append(row())
    return rounds


def show(rounds: dict[str, list[Load]], arguments: argparse.Namespace, report: Report) -> None:
    """Write the medians of the rounds."""

    def middle(name: str, figure: str) -> float:
        return float(median(getattr(one, figure) for one in rounds[name]))

    best = max(middle(name, "rate") for name in rounds if name.startswith("in process"))
    frames = "unpacked Mono8 frames of 2,448 x 2,048 px" if arguments.large else "JPEG frames of 512 px"
    report.write(
        f"PatchCore with a bank of about 10,000 entries, {frames}; {arguments.seconds:g} s per row, "
        f"medians of {arguments.rounds} rounds. The limit is the better of the rows in process.\n"
    )
    report.write("| | frames/s | share of limit | p50, ms | p95 | p99 | refused | server cores | MiB |")
    report.write("|---|---|---|---|---|---|---|---|---|")
    for name in rounds:
        rate, p50, p95, p99 = (middle(name, figure) for figure in ("rate", "p50_ms", "p95_ms", "p99_ms"))
        cores, memory = middle(name, "cores"), middle(name, "resident_mib")
        report.write(
            f"| {name} | {rate:.1f} | {rate / best:.2f} | {p50:.0f} | {p95:.0f} | {p99:.0f} "
            f"| {middle(name, 'refused'):.0f} | {f'{cores:.2f} | {memory:.0f}' if cores else '- | -'} |"
        )
    if arguments.large:
        return
    report.summary += ["| | frames/s | share of limit | p50, ms | p99, ms |", "|---|---|---|---|---|"]
    for name in rounds:
        if name.startswith(("16 ", "64 ", "in process, one")):
            continue
        rate, p50, p99 = (middle(name, figure) for figure in ("rate", "p50_ms", "p99_ms"))
        report.summary.append(f"| {name} | {rate:.1f} | {rate / best:.2f} | {p50:.0f} | {p99:.0f} |")


def main() -> None:
    if sys.argv[1:2] == ["--limit"]:
        version, frames, workers, seconds = sys.argv[2:]
        result = limit(Path(version), Path(frames), int(workers), float(seconds))
        print(json.dumps(asdict(result)))
        return
    if sys.argv[1:2] == ["--generate"]:
        address, model, folder, kind, callers, seconds = sys.argv[2:]
        result = asyncio.run(generated(address, model, Path(folder), kind, int(callers), float(seconds)))
        print(json.dumps(asdict(result)))
        return
    options = parser(__doc__)
    options.add_argument("--large", action="store_true", help="frames of 5 Mpx")
    options.add_argument(
        "--streams", type=int, nargs="+", default=[1, 4, 16, 64], help="callers of each row"
    )
    options.add_argument("--seconds", type=float, default=8.0, help="length of a row")
    options.add_argument("--rounds", type=int, default=5)
    arguments = options.parse_args()
    name, title = (
        ("bench_serving_large", "Serving frames of 5 Mpx")
        if arguments.large
        else ("bench_serving", "Serving")
    )
    with tempfile.TemporaryDirectory() as made, section(name, title, arguments) as report:
        show(bench(Path(made), arguments), arguments, report)


if __name__ == "__main__":
    main()
