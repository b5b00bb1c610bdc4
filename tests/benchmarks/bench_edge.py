# SPDX-License-Identifier: Apache-2.0
"""Compare the footprint and the speed of an older commit with those of this checkout, in one run.

    python -m tests.benchmarks.bench_edge [--quick] [--before 8d3c780] [--rounds 5] [--seconds 4]

Both run in this environment, from their own sources, with the same model: a PatchCore with a bank of about
10,000 entries, which the older commit trained. Rows take turns, and each figure is the median of the
rounds. Frames are JPEGs of 512 px. A start lasts from the start of the server's process until it answers
SERVING, with the model in memory. The size of an installation is that of the files of all distributions
which an extra requires here; what depends on another platform is left out.
"""

import argparse
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from statistics import median

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from packaging.requirements import Requirement
from tests.benchmarks import bench_serving as serving
from tests.benchmarks.report import ROOT, Report, parser, section

from blemish_client import Client

_SOURCES = ("", "protos", "core", "server", "workers", "clients")
_START_TIMEOUT_S = 120.0
_POLL_S = 0.02
_SERVING_EXTRAS = ("serve", "server")
"""Extras that install a server, the smallest first."""


def export_commit(commit: str, folder: Path) -> Path:
    """Write the files of a commit to a folder, and return it.

    Raises:
        SystemExit: if the history does not contain the commit.
    """
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        raise SystemExit(f"{commit} is not in the history of this checkout; choose another with --before")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@contextmanager
def sources(tree: Path) -> Iterator[None]:
    """Let child processes import from a tree within the block."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(str(tree / name) for name in _SOURCES)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextmanager
def stack(tree: Path, folder: Path) -> Iterator[str]:
    """Run the stack of a tree; yield the server's address."""
    address = folder / "address"
    with sources(tree):
        process = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "blemish_local", "up", "--quiet"),
                *("--data", str(folder / "data"), "--listen", "127.0.0.1:0"),
                *("--address-file", str(address), "--import-root", str(folder.parent)),
                *(["--no-console"] if (tree / "clients/blemish_console").exists() else []),
            ],
            cwd=tree,
        )
    try:
        while not address.exists():
            if process.poll() is not None:
                raise SystemExit(f"the stack of {tree.name} did not start; see its messages above")
            time.sleep(_POLL_S)
        yield address.read_text().strip()
    finally:
        process.terminate()
        process.wait(60)


def installed_bytes(tree: Path, extra: str) -> int:
    """Return the size of all distributions that an extra of a tree requires, in bytes."""
    project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    waiting = [*project["dependencies"], *extras[extra]]
    seen: set[tuple[str, str]] = set()
    found: dict[str, Distribution] = {}
    while waiting:
        required = Requirement(waiting.pop())
        name = re.sub(r"[-_.]+", "-", required.name).lower()
        for wanted in ("", *required.extras):
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            if name == project["name"]:
                waiting += extras.get(wanted, [])
                continue
            try:
                found[name] = distribution(required.name)
            except PackageNotFoundError:
                continue  # for another platform
            waiting += [
                line
                for line in found[name].requires or ()
                if (marker := Requirement(line).marker) is None or marker.evaluate({"extra": wanted})
            ]
    return sum(_size(each) for each in found.values())


def _size(installed: Distribution) -> int:
    files = (Path(str(file.locate())) for file in installed.files or ())
    return sum(file.stat().st_size for file in files if file.is_file())


def started(tree: Path, data: Path) -> tuple[float, float]:
    """Start a server with the environment of a stack; return the time to SERVING, in s, and memory, MiB."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    exports = (data / "run/environment.sh").read_text().splitlines()
    pairs = (line.removeprefix("export ").split("=", 1) for line in exports if line.startswith("export "))
    variables = {name: value.strip("'\"") for name, value in pairs}
    with sources(tree):
        environment = os.environ | variables | {"BLEMISH_LISTEN": address}
    began = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "blemish_server"],
        env=environment,
        cwd=tree,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with grpc.insecure_channel(address, [("grpc.max_reconnect_backoff_ms", 50)]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not _is_serving(stub):
                if server.poll() is not None or time.perf_counter() - began > _START_TIMEOUT_S:
                    raise SystemExit(f"the server of {tree.name} did not start; run it by hand")
                time.sleep(_POLL_S)
        taken = time.perf_counter() - began
        return taken, psutil.Process(server.pid).memory_info().rss / 2**20
    finally:
        server.terminate()
        server.wait(60)


def _is_serving(stub: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
    except grpc.RpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def progress(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def bench(folder: Path, arguments: argparse.Namespace, report: Report) -> None:
    trees = {"before": export_commit(arguments.before, folder / "sources"), "after": ROOT}
    surface, frames = folder / "tile", folder / "frames"
    train = serving.trained_surface(surface)
    serving.jpegs(surface, frames)
    with ExitStack() as stacks:
        homes = {name: folder / f"of-{name}" for name in trees}
        for home in homes.values():
            home.mkdir()
        progress("train a model")
        address = {"before": stacks.enter_context(stack(trees["before"], homes["before"]))}
        model = train(address["before"])
        with Client(address["before"]) as client:
            client.promote(model)
        shutil.copytree(homes["before"] / "data/store", homes["after"] / "data/store")
        address["after"] = stacks.enter_context(stack(trees["after"], homes["after"]))
        version = homes["after"] / "data/store/models/tile-patchcore/1"
        starts: dict[str, list[tuple[float, float]]] = {name: [] for name in trees}
        for number in range(arguments.rounds):
            progress(f"start servers, round {number + 1} of {arguments.rounds}")
            for name, tree in trees.items():
                starts[name].append(started(tree, homes[name] / "data"))
        write_footprint(trees, starts, report)
        loads = measure_loads(folder, address, model, version, frames, arguments)
        write_loads(loads, arguments, report)


def write_footprint(
    trees: dict[str, Path], starts: dict[str, list[tuple[float, float]]], report: Report
) -> None:
    report.write("| | install size, MB | start, s | memory after start, MiB |\n|---|---:|---:|---:|")
    for name, tree in trees.items():
        extras = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        extra = next(each for each in _SERVING_EXTRAS if each in extras)
        seconds, mib = (median(values) for values in zip(*starts[name], strict=True))
        size = installed_bytes(tree, extra) / 1e6
        report.write(f"| {name}, `blemish[{extra}]` | {size:,.0f} | {seconds:.1f} | {mib:.0f} |")


def measure_loads(
    folder: Path,
    address: dict[str, str],
    model: str,
    version: Path,
    frames: Path,
    arguments: argparse.Namespace,
) -> dict[str, list[serving.Load]]:
    """Return the loads of each row, one for each round."""
    seconds, cores = arguments.seconds, os.cpu_count() or 1
    process = {name: serving.server_process(each) for name, each in address.items()}
    rows: dict[str, Callable[[], serving.Load]] = {
        "in process, one by one on all cores": partial(serving.in_process, version, frames, 1, seconds),
        f"in process, {cores} at once": partial(serving.in_process, version, frames, cores, seconds),
    }
    if not arguments.no_anomalib:
        progress("export anomalib's model")
        rows["anomalib OpenVINOInferencer, one by one"] = partial(
            serving.repeated,
            serving.anomalib_scorer(version, folder),
            serving.read_frames(frames),
            1,
            seconds,
        )
    for kind, callers in (("unary", 1), *(("stream", callers) for callers in arguments.streams)):
        for name in address:
            noun = "unary caller" if kind == "unary" else "stream" if callers == 1 else "streams"
            rows[f"{callers} {noun}, {name}"] = partial(
                serving.served, process[name], address[name], model, frames, kind, callers, seconds
            )
    rounds: dict[str, list[serving.Load]] = {name: [] for name in rows}
    for number in range(arguments.rounds):
        for name, row in rows.items():
            progress(f"round {number + 1} of {arguments.rounds}: {name}")
            rounds[name].append(row())
    return rounds


def write_loads(
    rounds: dict[str, list[serving.Load]], arguments: argparse.Namespace, report: Report
) -> None:
    def middle(name: str, figure: str) -> float:
        return float(median(getattr(load, figure) for load in rounds[name]))

    best = max(middle(name, "rate") for name in rounds if name.startswith("in process"))
    report.write(
        f"\n{arguments.seconds:g} s per row, medians of {arguments.rounds} rounds. The limit is the better "
        "of the rows in process.\n"
    )
    report.write("| | frames/s | share of limit | p50, ms | p99, ms | server MiB |")
    report.write("|---|---:|---:|---:|---:|---:|")
    for name in rounds:
        rate, p50, p99 = (middle(name, figure) for figure in ("rate", "p50_ms", "p99_ms"))
        memory = middle(name, "resident_mib")
        report.write(
            f"| {name} | {rate:.1f} | {rate / best:.2f} | {p50:.1f} | {p99:.1f} "
            f"| {f'{memory:.0f}' if memory else '-'} |"
        )


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--before", default="8d3c780", help="older commit to compare with")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=4.0, help="length of a row")
    options.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16, 64])
    options.add_argument("--no-anomalib", action="store_true", help="without anomalib's inferencer")
    options.add_argument("--quick", action="store_true", help="rows of 2 s")
    arguments = options.parse_args()
    if arguments.quick:
        arguments.seconds = 2.0
    with (
        tempfile.TemporaryDirectory() as made,
        section("bench_edge", "Footprint and speed", arguments) as report,
    ):
        bench(Path(made), arguments, report)


if __name__ == "__main__":
    main()
