# SPDX-License-Identifier: Apache-2.0
"""Raw frames of any size, models trained on them, servers of their own, and cameras that load them.

The frames show one drawn surface of 512 px, enlarged to the size of the frame, with noise of a sensor. All
loads are closed loops: a camera has a fixed number of unanswered frames. Cameras have connections of their
own, in one process on the server's cores.
"""

import asyncio
import importlib
import itertools
import json
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import Mock, patch

import cv2
import grpc
import grpc.aio
import numpy as np
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.benchmarks.report import ROOT
from tests.support.job_context import make_job_context
from tritonclient.grpc import service_pb2 as triton_pb
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from blemish.v1 import image_pb2
from blemish.v1 import inspection_pb2 as pb
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish_client.demo.surfaces import generate
from blemish_core.imaging.decode import ImageLimits
from blemish_core.imaging.image_input import ImageInput, RawLayout
from blemish_core.platform import threads
from blemish_core.search.search_index import SearchIndex

_MODULE = "tests.benchmarks.raw_cameras"
_SIDE = 512
_NOISE = 2.0
_FRAMES = 4
"""Different frames that a camera sends in turn."""
_IN_FLIGHT, _MOST_IN_FLIGHT = 8, 4
"""Unanswered frames of all cameras, and of one; each camera has at least one."""
_START_TIMEOUT_S = 60.0
_SHARED_FOLDER = Path("/dev/shm")
_WARM_UP_FRAMES = 2


@dataclass(frozen=True)
class Load:
    """The results of one row in one round."""

    rate: float
    """Frames per second."""
    p50_ms: float
    cpu_ms: float = 0.0
    """CPU time of the cameras for one frame; without a server, that of scoring."""
    server_cpu_ms: float = 0.0
    """CPU time of the server for one frame."""
    refused: int = 0


@dataclass(frozen=True)
class Stages:
    """The time of one frame on one core, in ms."""

    total: float
    scale: float
    network: float
    search: float
    map: float


def middle(rounds: list[Any], figure: str) -> float:
    """Return the median of a figure over the rounds."""
    return float(median(getattr(each, figure) for each in rounds))


# Surfaces and models


class Surface:
    """A drawn surface, of which cameras of any resolution take frames."""

    def __init__(self, folder: Path, images: int) -> None:
        generate(folder, "tile", train=images, good=2, defective=2, size=_SIDE)
        self._good = sorted((folder / "train/good").iterdir())
        self._test = sorted((folder / "test").glob("*/*.png"))

    def training_set(self, folder: Path, size: tuple[int, int], images: int) -> Path:
        """Write good frames of a size (width, height) to a folder; return it."""
        (folder / "train/good").mkdir(parents=True)
        for number, file in enumerate(self._good[:images]):
            cv2.imwrite(str(folder / f"train/good/{number:03}.bmp"), _frame(file, size, number))
        return folder

    def frames(self, folder: Path, size: tuple[int, int], pixel_format: str = "Mono8") -> Path:
        """Write raw frames of good and defective surface to a folder; return it."""
        folder.mkdir(parents=True)
        for number, file in enumerate(self._test[:_FRAMES]):
            frame = _frame(file, size, 1000 + number)
            if pixel_format == "RGB8":
                frame = cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)
            name = f"{number:03}.{pixel_format}.{size[0]}x{size[1]}.raw"
            (folder / name).write_bytes(frame.tobytes())
        return folder


def _frame(file: Path, size: tuple[int, int], seed: int) -> Any:
    """Return the middle of an image of the surface in grey, (height, width)."""
    grey: Any = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    width, height = size
    factor = _SIDE / max(size)
    rows, columns = round(height * factor), round(width * factor)
    top, left = (_SIDE - rows) // 2, (_SIDE - columns) // 2
    part = grey[top : top + rows, left : left + columns]
    enlarged = cv2.resize(part, size, interpolation=cv2.INTER_CUBIC)
    noise = np.empty((height, width), np.int16)
    cv2.setRNGSeed(seed)
    cv2.randn(noise, np.zeros(1), np.full(1, _NOISE))
    return cv2.add(enlarged, noise, dtype=cv2.CV_8U)


def read_frames(folder: Path) -> list[ImageInput]:
    """Return the frames of a folder, in order of their names."""
    images = []
    for file in sorted(folder.glob("*.raw")):
        _, pixel_format, size, _ = file.name.split(".")
        width, height = map(int, size.split("x"))
        images.append(ImageInput(file.read_bytes(), RawLayout(pixel_format, width, height)))
    return images


class Trainer:
    """Trains models in this process, for the store of a stack."""

    def __init__(self, folder: Path, data: Path) -> None:
        self._folder = folder
        self._models = data / "store/models"
        context = make_job_context(folder / "training", Mock(spec=SearchIndex))
        self._context = replace(context, max_feature_bytes=4 << 30)

    def train(self, model: str, images: Path, **settings: Any) -> Path:
        """Train a PatchCore on a folder of images; return the folder of its version."""
        from blemish_core.jobs.handlers.train import train
        from blemish_core.jobs.record import PatchCoreSpec, TrainSpec
        from blemish_core.jobs.reporter import NullReporter

        self._context.datasets.import_folder(model, model, images, [self._folder])
        spec = TrainSpec(dataset=model, model_id=model, patchcore=PatchCoreSpec(**settings))
        training = importlib.import_module("blemish_core.detectors.patchcore.training.train")
        with patch.object(training, "_CROSS_CALIBRATE_BELOW", 0):  # one bank in place of one for each image
            train(self._context, spec, f"train-{model}", NullReporter())
        # The stack removes unfinished versions, so it receives a complete one.
        shutil.copytree(self._folder / "training/models" / model, self._models / model)
        return self._models / model / "1"


# Servers


@contextmanager
def server(data: Path, listen: str, **variables: str) -> Iterator[psutil.Process]:
    """Run a server of its own on the stack whose data folder is given, until it answers SERVING and on."""
    exports = (data / "run/environment.sh").read_text().splitlines()
    pairs = (line.removeprefix("export ").split("=", 1) for line in exports if line.startswith("export "))
    settings = {name: value.strip("'\"") for name, value in pairs} | variables
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "blemish_server"],
        env=os.environ | settings | {"BLEMISH_LISTEN": listen},
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with grpc.insecure_channel(listen, [("grpc.max_reconnect_backoff_ms", 50)]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            give_up = time.monotonic() + _START_TIMEOUT_S
            while not _is_serving(health):
                if process.poll() is not None or time.monotonic() > give_up:
                    raise SystemExit(f"the server at {listen} did not start; run it by hand")
                time.sleep(0.05)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _is_serving(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=1)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def peak_mib(process: psutil.Process) -> float:
    """Return the most memory that a process has had resident."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


# Cameras, in a process of their own


@dataclass
class _Answers:
    took: list[float]
    refused: int = 0


async def _stream(
    address: str, model: str, frames: list[ImageInput], in_flight: int, until_s: float, answers: _Answers
) -> None:
    """Send frames in messages of ScoreStream."""
    messages = []
    for frame in frames:
        assert frame.layout is not None
        raw = image_pb2.RawImage(data=frame.data, **asdict(frame.layout))
        messages.append(pb.ScoreStreamRequest(frame=pb.Frame(image=image_pb2.Image(raw=raw))))
    room, sent = asyncio.Semaphore(in_flight), []

    async def requests() -> AsyncIterator[pb.ScoreStreamRequest]:
        yield pb.ScoreStreamRequest(config=pb.StreamConfig(model=model, policy=pb.STREAM_POLICY_BLOCK))
        for sequence, message in enumerate(itertools.cycle(messages)):
            await room.acquire()
            if time.perf_counter() > until_s:
                return
            message.frame.sequence = sequence
            sent.append(time.perf_counter())
            yield message

    async with _channel(address) as channel:
        stub = InspectionServiceStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
        async for answer in stub.ScoreStream(requests()):
            answers.took.append(time.perf_counter() - sent[answer.sequence])
            answers.refused += not answer.HasField("inspection")
            room.release()


async def _shared(
    address: str, model: str, frames: list[ImageInput], in_flight: int, until_s: float, answers: _Answers
) -> None:
    """Write frames to shared memory, and send their places in messages of ModelStreamInfer."""
    layout = frames[0].layout
    assert layout is not None
    channels = 3 if layout.pixel_format == "RGB8" else 1
    size = len(frames[0].data)
    key = f"blemish-bench-{os.getpid()}-{id(answers)}"
    path = _SHARED_FOLDER / key
    path.write_bytes(bytes(in_flight * size))
    room: asyncio.Queue[int] = asyncio.Queue()
    for slot in range(in_flight):
        room.put_nowait(slot)
    sent: dict[str, tuple[float, int]] = {}
    with path.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as memory:

        async def requests() -> AsyncIterator[Any]:
            for sequence, frame in enumerate(itertools.cycle(frames)):
                slot = await room.get()
                if time.perf_counter() > until_s:
                    return
                request = triton_pb.ModelInferRequest(model_name=model, id=str(sequence))
                tensor = request.inputs.add(name="image", datatype="UINT8")
                tensor.shape.extend([layout.height, layout.width, channels])
                tensor.parameters["shared_memory_region"].string_param = key
                tensor.parameters["shared_memory_byte_size"].int64_param = size
                tensor.parameters["shared_memory_offset"].int64_param = slot * size
                sent[request.id] = time.perf_counter(), slot
                memory[slot * size : (slot + 1) * size] = frame.data
                yield request

        try:
            async with _channel(address) as channel:
                stub = GRPCInferenceServiceStub(channel)
                register = triton_pb.SystemSharedMemoryRegisterRequest
                await stub.SystemSharedMemoryRegister(
                    register(name=key, key=f"/{key}", byte_size=in_flight * size)
                )
                async for answer in stub.ModelStreamInfer(requests()):
                    sent_s, slot = sent.pop(answer.infer_response.id)
                    answers.took.append(time.perf_counter() - sent_s)
                    answers.refused += bool(answer.error_message)
                    room.put_nowait(slot)
                await stub.SystemSharedMemoryUnregister(
                    triton_pb.SystemSharedMemoryUnregisterRequest(name=key)
                )
        finally:
            path.unlink()


def _channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        address,
        # Without this, all cameras of the process would share one connection.
        [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)],
    )


async def _generated(
    address: str, models: list[str], folder: Path, kind: str, cameras: int, seconds: float
) -> Load:
    frames, answers = read_frames(folder), _Answers([])
    in_flight = max(1, min(_MOST_IN_FLIGHT, _IN_FLIGHT // cameras))
    camera = _shared if kind == "shared" else _stream
    began, cpu_s = time.perf_counter(), time.process_time()
    sharing = [replace(answers, took=[]) for _ in range(cameras)]
    await asyncio.gather(
        *(
            camera(address, models[number % len(models)], frames, in_flight, began + seconds, each)
            for number, each in enumerate(sharing)
        )
    )
    took = [latency_s for each in sharing for latency_s in each.took]
    return Load(
        len(took) / (time.perf_counter() - began),
        float(np.median(took)) * 1000,
        (time.process_time() - cpu_s) * 1000 / len(took),
        refused=sum(each.refused for each in sharing),
    )


class Cameras:
    """A process of cameras that waits for orders, so that no row includes its start."""

    def __init__(self, frames: Path, kind: str = "stream") -> None:
        self._frames, self._kind = frames, kind
        self._child = _Child("--cameras", str(frames), kind)

    def __enter__(self) -> "Cameras":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def load(
        self, process: psutil.Process, address: str, models: list[str], cameras: int, seconds: float
    ) -> Load:
        """Load a server; return the results, with the CPU time that a frame takes of it."""
        before = process.cpu_times()
        load = Load(**self._child.ask([address, models, cameras, seconds]))
        after = process.cpu_times()
        used_s = after.user + after.system - before.user - before.system
        frames = load.rate * self._child.span_s
        return replace(load, server_cpu_ms=1000 * used_s / frames)


class InProcess:
    """A process that scores frames without a server, on all cores at once."""

    def __init__(self, version: Path, frames: Path) -> None:
        self._child = _Child("--limit", str(version), str(frames))

    def __enter__(self) -> "InProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close()

    def load(self, seconds: float) -> Load:
        """Score frames for some seconds, one on each core at a time."""
        return Load(**self._child.ask(seconds))

    def stages(self, frames: int) -> Stages:
        """Return the medians of the stages of some frames, scored one by one on one core."""
        return Stages(**self._child.ask(-frames))


class _Child:
    """A process of this module that answers lines of JSON."""

    def __init__(self, *arguments: str) -> None:
        # NumPy's BLAS gets the share of the cores that it has in the server.
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", _MODULE, *arguments],
            env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.span_s = 0.0

    def ask(self, order: object) -> Any:
        """Return the answer to an order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        began = time.perf_counter()
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        self.span_s = time.perf_counter() - began
        if not answer:
            raise SystemExit("a child process failed; see its message above")
        return json.loads(answer)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def _answer_orders(answer: Callable[[Any], object]) -> None:
    for line in sys.stdin:
        print(json.dumps(asdict(answer(json.loads(line)))), flush=True)  # type: ignore[call-overload]


def _run_cameras(folder: Path, kind: str) -> None:
    def answer(order: tuple[str, list[str], int, float]) -> Load:
        address, models, cameras, seconds = order
        return asyncio.run(_generated(address, models, folder, kind, cameras, seconds))

    _answer_orders(answer)


# Scoring without a server


def _run_limit(version: Path, folder: Path) -> None:
    threads.disable_opencv_threads()
    from blemish_core.runtimes.choice import RuntimeChoice
    from blemish_core.serving.loading import load_for_serving

    frames = read_frames(folder)
    cores = os.cpu_count() or 1
    _, shared = load_for_serving(version, "cpu", RuntimeChoice(lanes=cores))

    def answer(order: float) -> Load | Stages:
        if order < 0:
            _, alone = load_for_serving(version, "cpu", RuntimeChoice(threads=1))
            return _timed_stages(alone, frames, -int(order))
        return _timed(shared, frames, order, cores)

    _answer_orders(answer)


def _score(detector: Any, image: ImageInput) -> None:
    detector.predict([detector.prepare(image.pixels(ImageLimits()))])


def _timed(detector: Any, images: list[ImageInput], seconds: float, workers: int) -> Load:
    took: list[float] = []
    frames = itertools.cycle(images)
    began, cpu_s = time.perf_counter(), time.process_time()

    def work() -> None:
        while time.perf_counter() - began < seconds:
            before = time.perf_counter()
            _score(detector, next(frames))
            took.append(time.perf_counter() - before)

    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work) for _ in range(workers)]:
            done.result()
    cpu_ms = (time.process_time() - cpu_s) * 1000 / len(took)
    return Load(len(took) / (time.perf_counter() - began), float(np.median(took)) * 1000, cpu_ms)


def _timed_stages(detector: Any, images: list[ImageInput], frames: int) -> Stages:
    serving: Any = importlib.import_module("blemish_core.serving.patchcore")
    from blemish_core.serving.memory_bank import ServedBank

    spent: dict[str, float] = {}

    def clocked(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - began

        return timed

    def features(*arguments: Any) -> Any:
        # The generator runs the network when it is read.
        return iter(clocked("network", lambda: list(tiled(*arguments)))())

    tiled = serving.tiled_features
    prepare = clocked("scale", lambda image: detector.prepare(image.pixels(ImageLimits())))
    found = []
    with (
        patch.object(serving, "tiled_features", features),
        patch.object(serving, "anomaly_map", clocked("map", serving.anomaly_map)),
        patch.object(ServedBank, "nearest", clocked("search", ServedBank.nearest)),
    ):
        for image in itertools.islice(itertools.cycle(images), frames + 1):
            spent.clear()
            began = time.perf_counter()
            detector.predict([prepare(image)])
            found.append(Stages(time.perf_counter() - began, **spent))
    del found[0]  # allocates memory
    return Stages(**{name: 1000 * middle(found, name) for name in asdict(found[0])})


def main() -> None:
    match sys.argv[1:]:
        case ["--cameras", frames, kind]:
            _run_cameras(Path(frames), kind)
        case ["--limit", version, frames]:
            _run_limit(Path(version), Path(frames))


if __name__ == "__main__":
    main()
