# SPDX-License-Identifier: Apache-2.0
"""Measure the Search RPC against the bare Qdrant client, its recall, and latency during a bulk load.

    python -m tests.benchmarks.bench_search [--sizes 10000,100000] [--rounds 5] [--queries 300]
                                            [--load 20000]

A running stack has a PatchCore of the synthetic tile, its test images embedded by a job. The index is then
filled up to each size through ``SearchIndex.put``, 64 items at a time as the embed job does it.

The added vectors have the shape of the real ones. This means the same mean, the same shares of variance
between and within classes, and a spectrum that continues the power law of the real covariance. Centers are
drawn with the variance between classes, and Zipf's law gives the number of vectors of each. Half of these
vary as a class does; half are near-duplicates that vary as little as the nearest real neighbours.

Every query is sent to the Search RPC and to ``QdrantClient.query_points`` on the same collection, with the
same parameters and from one process. Each way gets 30 queries in a row, because a call after one of another
kind finds cold caches. "Through a relay" is the bare client whose calls a Python process forwards unread:
the least that any server in between costs. Recall@10 compares with ``exact`` searches.

A process of its own puts the bulk load. Calls leave every 20 ms whether or not earlier ones were answered,
and latency counts from the time at which a call was due.
"""

import argparse
import asyncio
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient
from qdrant_client import models as qm
from tests.benchmarks.bench_serving import running
from tests.benchmarks.report import Report, parser, section

from blemish.v1 import search_pb2 as pb
from blemish.v1.search_pb2_grpc import SearchServiceStub
from blemish.v1.server_pb2 import GetServerInfoRequest
from blemish.v1.server_pb2_grpc import ServerServiceStub
from blemish_client import Client
from blemish_client.demo.surfaces import CLASSES, generate
from blemish_client.transport.connection import Connection
from blemish_core.platform.names import ModelRef
from blemish_core.search.finder import oversampling
from blemish_core.search.item import Item, item_id
from blemish_core.search.search_index import SearchIndex

Vectors = NDArray[np.float32]

_SEED = 7
_BATCH = 64  # as in the embed job
_CENTERS = 300
_ZIPF = 1.1  # few defects have many images, most have few
_LIMIT = 10
_IN_A_ROW = 30
_EVERY_S = 0.02
_SETTLE_TIMEOUT_S = 60.0
_CLASSES = ("good", *CLASSES)


# The vectors


@dataclass(frozen=True)
class Shape:
    """The distribution of embeddings, measured on real ones."""

    mean: Vectors
    """(D,)."""
    deviations: Vectors
    """(D,), along the principal directions: a power law of their rank."""
    within: float
    """Share of the variance that lies within classes."""
    near: float
    """Median distance to the nearest neighbour, divided by that between any two of a class."""
    exponent: float
    """Exponent of the power law of variances."""

    @classmethod
    def of(cls, vectors: Vectors, classes: Sequence[str]) -> "Shape":
        """Measure vectors (N, D)."""
        names = np.array(classes)
        mean = vectors.mean(axis=0)
        variances = np.linalg.svd(vectors - mean, compute_uv=False) ** 2 / len(vectors)
        leading = variances[: max(8, min(vectors.shape) // 2)]
        ranks = np.arange(1, vectors.shape[1] + 1)
        slope, _ = np.polyfit(np.log(ranks[: len(leading)]), np.log(leading), 1)
        fitted = ranks**slope
        fitted *= variances.sum() / fitted.sum()
        of_class = {name: vectors[names == name] for name in sorted(set(classes))}
        around = np.concatenate([each - each.mean(axis=0) for each in of_class.values()])
        distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
        same = (names[:, None] == names[None]) & ~np.eye(len(names), dtype=bool)
        nearest = np.where(same, distances, np.inf).min(axis=1)
        return cls(
            mean=mean,
            deviations=np.sqrt(fitted).astype(np.float32),
            within=float((around**2).sum() / len(vectors) / variances.sum()),
            near=float(np.median(nearest) / np.median(distances[same])),
            exponent=float(slope),
        )

    def write(self, file: Path) -> None:
        np.savez(file, **vars(self))

    @classmethod
    def read(cls, file: Path) -> "Shape":
        with np.load(file) as kept:
            scalars = {name: float(kept[name]) for name in ("within", "near", "exponent")}
            return cls(mean=kept["mean"], deviations=kept["deviations"], **scalars)

    def draw(self, first: int, count: int) -> tuple[Vectors, NDArray[np.int64]]:
        """Return vectors (``count``, D) of length 1 and their centers (``count``,), fixed by ``first``."""
        size = len(self.deviations)
        fixed = np.random.default_rng(_SEED)
        spread = np.sqrt(1 - self.within) * self.deviations
        centers = self.mean + fixed.standard_normal((_CENTERS, size), np.float32) * spread
        share = 1 / np.arange(1, _CENTERS + 1) ** _ZIPF
        random = np.random.default_rng((_SEED, first))
        center = random.choice(_CENTERS, count, p=share / share.sum())
        scale = np.where(random.random(count) < 0.5, self.near, 1.0)[:, None] * np.sqrt(self.within)
        vectors = centers[center] + random.standard_normal((count, size), np.float32) * (
            scale * self.deviations
        )
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32), center


def batches(
    version: ModelRef, shape: Shape, first: int, count: int
) -> Iterator[tuple[list[Item], Vectors]]:
    """Yield items without images, and their vectors, in batches."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(first, first + count, _BATCH):
        vectors, centers = shape.draw(number, min(_BATCH, first + count - number))
        items = []
        for offset, center in enumerate(centers):
            content = sha256(f"{_SEED}:{number + offset}".encode()).hexdigest()
            class_name = _CLASSES[center % len(_CLASSES)]
            items.append(
                Item(
                    item_id(version, content),
                    sha256=content,
                    score=float(10 + center % 7),
                    p_value=0.5 if class_name == "good" else 0.01,
                    anomalous=class_name != "good",
                    dataset=f"datasets/line-{center % 4}",
                    category="tile",
                    path=f"test/{class_name}/{number + offset:06}.png",
                    class_name=class_name,
                    camera=f"camera-{center % 6}",
                    time=began + timedelta(seconds=number + offset),
                )
            )
        yield items, vectors


# The index behind the stack


@dataclass(frozen=True)
class Bench:
    """A running stack and the model version whose index is measured."""

    address: str
    url: str
    grpc_port: int
    version: ModelRef

    @classmethod
    def of(cls, address: str, folder: Path, version: str) -> "Bench":
        """Read the addresses of the stack's parts from the file that it wrote."""
        lines = (folder / "data/run/environment.sh").read_text()
        variables = dict(
            word.partition("=")[::2] for word in shlex.split(lines) if "=" in word
        )  # export NAME=VALUE
        return cls(
            address,
            variables["QDRANT_URL"],
            int(variables["QDRANT_GRPC_PORT"]),
            ModelRef.parse(version),
        )

    @property
    def index(self) -> SearchIndex:
        return SearchIndex.connect(self.url, self.grpc_port)

    def bare(self) -> QdrantClient:
        return QdrantClient(
            url=self.url,
            grpc_port=self.grpc_port,
            prefer_grpc=True,
            timeout=60,
            check_compatibility=False,
        )

    @property
    def alias(self) -> str:
        """The alias of the collection that ``SearchIndex`` searches."""
        return f"blemish.{self.version.model}.{self.version.version}.published"

    def points(self) -> int:
        return int(self.bare().count(self.alias).count)


def real(bench: Bench) -> tuple[Vectors, list[str]]:
    """Return the embeddings (N, D) of the images in the index, and their classes."""
    found, _ = bench.bare().scroll(bench.alias, limit=10_000, with_vectors=True)
    vectors = np.array([point.vector for point in found], np.float32)
    return vectors, [str((point.payload or {})["class_name"]) for point in found]


def fill(bench: Bench, shape: Shape, size: int) -> str:
    """Put items until there are ``size`` points; return the speed in words."""
    count = bench.points()
    took = loaded(bench, shape, count, size - count)
    return f"filled at {(size - count) / sum(took):.0f} per second, longest put {max(took):.2f} s"


def loaded(bench: Bench, shape: Shape, first: int, count: int) -> list[float]:
    """Put ``count`` items; return the duration of each put, in seconds."""
    index, took = bench.index, []
    for items, vectors in batches(bench.version, shape, first, count):
        before = time.perf_counter()
        index.put(bench.version, items, vectors, "bench")
        took.append(time.perf_counter() - before)
    return took


def settled(bench: Bench) -> tuple[int, int]:
    """Wait until Qdrant is at rest; return its numbers of segments and of quantized vectors."""
    bare = bench.bare()

    def state() -> tuple[int, int]:
        info = bare.get_collection(bench.alias)
        return int(info.segments_count), int(info.indexed_vectors_count or 0)

    latest, since = state(), time.monotonic()
    end = since + _SETTLE_TIMEOUT_S
    while time.monotonic() < min(since + 12, end):
        time.sleep(0.5)
        if (now := state()) != latest:
            latest, since = now, time.monotonic()
    return latest


# Searches, one after the other


def latencies_ms(
    asks: dict[str, Callable[[int], object]], numbers: Sequence[int], random: np.random.Generator
) -> dict[str, list[float]]:
    """Send each numbered query each way, ``_IN_A_ROW`` at a time, the ways in random order."""
    took: dict[str, list[float]] = {name: [] for name in asks}
    for start in range(0, len(numbers), _IN_A_ROW):
        for name in random.permutation(list(asks)):
            for number in numbers[start : start + _IN_A_ROW]:
                before = time.perf_counter()
                asks[name](number)
                took[name].append(1000 * (time.perf_counter() - before))
    return took


async def relay(port: int) -> None:
    """Forward every call to a port of this machine, unread, until killed; print the relay's own port."""

    class Relay(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> Any:
            method: Any = channel.unary_unary(details.method)

            async def forward(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
                return bytes(await method(request, timeout=context.time_remaining()))

            return grpc.unary_unary_rpc_method_handler(forward)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Relay(),))
        print(server.add_insecure_port("127.0.0.1:0"), flush=True)
        await server.start()
        await server.wait_for_termination()


@contextmanager
def relayed(bench: Bench) -> Iterator[QdrantClient]:
    """Run a relay; yield a bare client that calls through it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bench_search", "--relay", str(bench.grpc_port)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield replace(bench, grpc_port=int(process.stdout.readline())).bare()
        finally:
            process.kill()


def compared(
    bench: Bench,
    by_relay: QdrantClient,
    shape: Shape,
    size: int,
    arguments: argparse.Namespace,
    report: Report,
) -> str:
    """Write the latencies of the RPC and the bare client; return the recall in words."""
    bare, random = bench.bare(), np.random.default_rng(_SEED)
    connection = Connection(bench.address)  # with the default settings of clients
    search: Any = SearchServiceStub(connection.channel).Search  # type: ignore[no-untyped-call,unused-ignore]
    points, _ = bench.bare().scroll(bench.alias, limit=10_000, with_payload=False)
    ids = [str(points[number].id) for number in random.permutation(len(points))[: arguments.queries]]
    queries, _ = shape.draw(10**9, arguments.queries)
    fixed, model = f"models/{bench.version.model}/versions/{bench.version.version}", bench.version.model

    def rpc(name: str, number: int, *, by_vector: bool = False, exact: bool = False) -> list[str]:
        request = pb.SearchRequest(model=name, limit=_LIMIT, exact=exact, packed=True)
        if by_vector:
            request.vector.values.extend(queries[number].tolist())
        else:
            request.item = f"items/{ids[number]}"
        answers = search(request, timeout=30)
        return [hit.item for answer in answers for hit in answer.hits.hits]

    params = qm.SearchParams(
        exact=False,
        quantization=qm.QuantizationSearchParams(rescore=True, oversampling=oversampling(_LIMIT)),
    )

    def qdrant(client: QdrantClient, number: int, *, by_vector: bool = False) -> object:
        return client.query_points(
            bench.alias,
            query=qm.NearestQuery(nearest=queries[number].tolist() if by_vector else ids[number]),
            limit=_LIMIT,
            search_params=params,
            with_payload=True,
        )

    asks: dict[str, Callable[[int], object]] = {
        "bare, by item": partial(qdrant, bare),
        "bare, by vector": partial(qdrant, bare, by_vector=True),
        "bare through a relay, by item": partial(qdrant, by_relay),
        "bare through a relay, by vector": partial(qdrant, by_relay, by_vector=True),
        "Search, by item": partial(rpc, f"models/{model}"),
        "Search, by item, fixed version": partial(rpc, fixed),
        "Search, by vector": partial(rpc, f"models/{model}", by_vector=True),
    }
    numbers = range(arguments.queries)
    latencies_ms(asks, numbers[:20], random)  # warm-up
    rounds = [latencies_ms(asks, numbers, random) for _ in range(arguments.rounds)]

    def figure(name: str, quantile: float) -> float:
        return float(median(np.quantile(each[name], quantile) for each in rounds))

    for name in asks:
        p50, p99 = figure(name, 0.5), figure(name, 0.99)
        beyond = "- | - | -"
        if name not in ("bare, by item", "bare, by vector"):
            base = "bare, by vector" if "vector" in name else "bare, by item"
            bare50, bare99 = figure(base, 0.5), figure(base, 0.99)
            beyond = f"{p50 / bare50:.2f} | {p99 / bare99:.2f} | {p50 - bare50:.2f}"
        report.write(f"| {size:,} | {name} | {p50:.2f} | {p99:.2f} | {beyond} |")
    recalls = [
        len({*rpc(fixed, number, by_vector=by)} & {*rpc(fixed, number, by_vector=by, exact=True)}) / _LIMIT
        for number in numbers
        for by in (False, True)
    ]
    connection.close()
    return f"recall@{_LIMIT} {np.mean(recalls):.4f} ({len(recalls)} queries, worst {min(recalls):.1f})"


# Calls during a load


@dataclass(frozen=True)
class Calls:
    """The results of calls that were sent at a fixed rate."""

    took_ms: list[float]
    failed: int

    def row(self) -> str:
        p50, p99, worst = np.quantile(self.took_ms, [0.5, 0.99, 1.0])
        late = np.mean(np.array(self.took_ms) > 100)
        return f"{len(self.took_ms)} | {self.failed} | {p50:.1f} | {p99:.1f} | {worst:.0f} | {late:.1%}"


async def called(call: Callable[[], Awaitable[object]], until: Callable[[], bool]) -> Calls:
    """Call every ``_EVERY_S`` until ``until`` returns true."""
    took: list[float] = []
    failed = [0]

    async def one(due: float) -> None:
        try:
            await call()
        except grpc.aio.AioRpcError:
            failed[0] += 1
        took.append(1000 * (time.perf_counter() - due))

    under_way: list[asyncio.Task[None]] = []
    due = time.perf_counter()
    while not until():
        under_way.append(asyncio.create_task(one(due)))
        due += _EVERY_S
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    await asyncio.gather(*under_way)
    return Calls(took, failed[0])


async def both_called(bench: Bench, until: Callable[[], bool]) -> dict[str, Calls]:
    """Call Search and GetServerInfo, each every ``_EVERY_S``, until ``until`` returns true."""
    random = np.random.default_rng(_SEED)
    points, _ = bench.bare().scroll(bench.alias, limit=1_000, with_payload=False)
    ids = [str(point.id) for point in points]
    async with grpc.aio.insecure_channel(bench.address) as channel:
        search: Any = SearchServiceStub(channel).Search  # type: ignore[no-untyped-call,unused-ignore]
        info: Any = ServerServiceStub(channel).GetServerInfo  # type: ignore[no-untyped-call,unused-ignore]

        async def search_once() -> None:
            request = pb.SearchRequest(model=f"models/{bench.version.model}", limit=_LIMIT, packed=True)
            request.item = f"items/{ids[random.integers(len(ids))]}"
            async for _ in search(request, timeout=30):
                pass

        async def info_once() -> None:
            await info(GetServerInfoRequest(), timeout=30)

        await search_once()
        searches, infos = await asyncio.gather(called(search_once, until), called(info_once, until))
    return {"Search": searches, "GetServerInfo": infos}


def under_load(bench: Bench, shape: Path, count: int, report: Report) -> None:
    """Write the latencies of calls at rest, during a bulk load, and right after it."""
    first = bench.points()
    rest = time.perf_counter() + 5
    phases = {"at rest": asyncio.run(both_called(bench, lambda: time.perf_counter() > rest))}
    began = time.perf_counter()
    plan = [bench.address, bench.url, str(bench.grpc_port), str(bench.version), str(first), str(count)]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bench_search", "--put", str(shape), *plan],
        stdout=subprocess.PIPE,
        text=True,
    ) as load:
        assert load.stdout is not None
        load.stdout.readline()  # the load is ready to begin
        phases["during the load"] = asyncio.run(both_called(bench, lambda: load.poll() is not None))
        rate = json.loads(load.stdout.read())
        if load.returncode:
            raise SystemExit("the load failed")
    rest = time.perf_counter() + 15
    phases["15 s after it"] = asyncio.run(both_called(bench, lambda: time.perf_counter() > rest))
    report.write(
        f"\nBulk load: {count:,} items put {_BATCH} at a time onto {first:,}, {rate:.0f} per second, "
        f"{time.perf_counter() - began - 15:.0f} s in all.\n"
    )
    report.write(
        f"| every {1000 * _EVERY_S:.0f} ms | calls | failed | p50, ms | p99 | maximum | over 100 ms |"
    )
    report.write("|---|---|---|---|---|---|---|")
    for when, calls in phases.items():
        for name, results in calls.items():
            report.write(f"| {name}, {when} | {results.row()} |")


def indexed_model(surface: Path, address: str) -> str:
    """Train a small PatchCore of the tile and embed its test images; return the version's name."""
    generate(surface, "tile", train=40, good=48, defective=144, size=256)
    with Client(address) as client:
        client.import_dataset("tile", str(surface))
        job = client.wait(client.train("tile"))
        if job.error:
            raise SystemExit(job.error)
        done = client.wait(client.embed(job.result.model_version, "tile"))
        if done.error:
            raise SystemExit(done.error)
        client.promote(job.result.model_version)
        return str(job.result.model_version)


def bench(folder: Path, arguments: argparse.Namespace, report: Report) -> None:
    with running(folder) as address:
        stage = Bench.of(address, folder, indexed_model(folder / "tile", address))
        vectors, classes = real(stage)
        shape = Shape.of(vectors, classes)
        shape.write(folder / "shape.npz")
        report.write(
            f"Seed {_SEED}; {len(vectors)} real embeddings of {vectors.shape[1]} values in "
            f"{len(set(classes))} classes. Variances fall as rank^{shape.exponent:.2f}; "
            f"{shape.within:.0%} of the variance lies within classes. "
            f"Latency in ms, {arguments.queries} queries per round, medians of {arguments.rounds} rounds.\n"
        )
        report.write("| vectors | | p50 | p99 | p50 / bare | p99 / bare | p50 - bare |")
        report.write("|---|---|---|---|---|---|---|")
        notes = []
        for size in arguments.sizes:
            filled = fill(stage, shape, size)
            segments, quantized = settled(stage)
            with relayed(stage) as by_relay:
                recall = compared(stage, by_relay, shape, size, arguments, report)
            notes.append(
                f"- {size:,} vectors: {filled}; {segments} segments, "
                f"{quantized:,} vectors in int8; {recall}"
            )
        report.write("\n" + "\n".join(notes))
        if arguments.load:
            under_load(stage, folder / "shape.npz", arguments.load, report)


def sizes(text: str) -> list[int]:
    """Parse numbers separated by commas."""
    return sorted(int(size) for size in text.split(","))


def main() -> None:
    if sys.argv[1:2] == ["--put"]:
        shape, address, url, port, version, first, count = sys.argv[2:]
        stage = Bench(address, url, int(port), ModelRef.parse(version))
        print("ready", flush=True)
        print(int(count) / sum(loaded(stage, Shape.read(Path(shape)), int(first), int(count))))
        return
    if sys.argv[1:2] == ["--relay"]:
        asyncio.run(relay(int(sys.argv[2])))
        return
    options = parser(__doc__)
    options.add_argument("--sizes", type=sizes, default=[10_000, 100_000], help="numbers of vectors")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--queries", type=int, default=300, help="queries per round")
    options.add_argument("--load", type=int, default=20_000, help="items of the bulk load; 0 skips it")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as made, section("bench_search", "Search", arguments) as report:
        bench(Path(made), arguments, report)


if __name__ == "__main__":
    main()
