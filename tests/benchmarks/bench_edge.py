# SPDX-License-Identifier: Apache-2.0
"""Compare footprint and speed with those of an older commit, anomalib and a peer server, in one run.

    python -m tests.benchmarks.bench_edge [--quick] [--before 8d3c780] [--rounds 5] [--seconds 4]

Before and after run from their own sources with the same model. It is a PatchCore with a bank of about
10,000 entries, which the older commit trained. The inferencers of anomalib and the peer, MLServer, have
the same backbone and a bank of that size. All receive the same frames, which are JPEGs of 512 px. Rows
take turns, and each figure is the median of the rounds.

Sizes are those of clean environments with the smallest extra that installs a server. They stay in the
cache, as does the peer's. Its requirements are in edge/mlserver-constraints.txt,
not in constraints.txt. Servers start in these environments. A start lasts from the start of the process
until it answers SERVING, with the model in memory. Other rows run in this environment.
"""

import argparse
import io
import json
import os
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
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from tests.benchmarks import bench_serving as serving
from tests.benchmarks.edge import environments, frame_times, peer, triton_load
from tests.benchmarks.edge.environments import Environment
from tests.benchmarks.edge.frame_times import Parts
from tests.benchmarks.report import ROOT, Report, parser, section

from blemish_client import Client
from blemish_core.imaging.decode import ImageLimits
from blemish_core.models.bundle import WEIGHTS, read_manifest
from blemish_core.models.loading import load_detector
from blemish_core.runtimes.choice import RuntimeChoice
from blemish_core.serving.detector import TensorFile
from blemish_core.serving.loading import load_for_serving

_SOURCES = ("", "protos", "core", "server", "workers", "clients")
_START_TIMEOUT_S = 120.0
_POLL_S = 0.02
_SERVING_EXTRAS = ("serve", "server")
"""Extras that install a server, the smallest first."""
_TRITON_CALLERS = (1, 8)
_FRAME_IMAGES = 122
"""Training images of the banks of timed frames."""


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


def started(tree: Path, data: Path, python: Path) -> tuple[float, float]:
    """Start a server with the settings of a stack; return the time to SERVING, in s, and memory, MiB."""
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
        [str(python), "-m", "blemish_server"],
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


def serving_extra(tree: Path) -> str:
    """Return the smallest extra of a tree that installs a server."""
    extras = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return next(each for each in _SERVING_EXTRAS if each in extras)


def installed(trees: dict[str, Path], arguments: argparse.Namespace) -> dict[str, Environment]:
    """Return an environment of its own for the server of each tree, those that the arguments want."""
    found = {}
    for name, tree in trees.items():
        extra = serving_extra(tree)
        if name == "before" and arguments.quick and not environments.cached(arguments.cache, tree, extra):
            continue
        progress(f"install blemish[{extra}], {name}")
        found[name] = environments.with_extra(arguments.cache, tree, extra)
    return found


def bench(folder: Path, arguments: argparse.Namespace, report: Report) -> None:
    trees = {"before": export_commit(arguments.before, folder / "sources"), "after": ROOT}
    installs = installed(trees, arguments)
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
        starts: dict[str, list[tuple[float, float]]] = {name: [] for name in installs}
        for number in range(arguments.rounds):
            progress(f"start servers, round {number + 1} of {arguments.rounds}")
            for name, each in installs.items():
                starts[name].append(started(trees[name], homes[name] / "data", each.python))
        write_footprint(trees, installs, starts, report)
        peers = {} if arguments.no_peer else start_peers(stacks, folder, version, arguments)
        loads = measure_loads(folder, address, model, version, frames, peers, arguments)
        write_loads(loads, version, arguments, report)
        write_exactness(version, frames, peers, report)
    if not arguments.no_frames:
        write_frame_times(measure_frame_times(folder, trees, arguments), arguments, report)


def write_footprint(
    trees: dict[str, Path],
    installs: dict[str, Environment],
    starts: dict[str, list[tuple[float, float]]],
    report: Report,
) -> None:
    report.write(
        "| | install size, MB | of it bytecode | start, s | memory after start, MiB |\n"
        "|---|---:|---:|---:|---:|"
    )
    for name, each in installs.items():
        seconds, mib = (median(values) for values in zip(*starts[name], strict=True))
        whole, bytecode = (size / 1e6 for size in each.sizes())
        report.write(
            f"| {name}, `blemish[{serving_extra(trees[name])}]` | {whole:,.0f} | {bytecode:,.0f} "
            f"| {seconds:.1f} | {mib:.0f} |"
        )


def start_peers(
    stacks: ExitStack, folder: Path, version: Path, arguments: argparse.Namespace
) -> dict[str, str]:
    """Start MLServer with one process on all cores, and with one for each core; return the addresses."""
    progress("install and start the peer server")
    environment = environments.with_requirements(arguments.cache, peer.REQUIREMENTS)
    addresses = {}
    for workers in sorted({1, os.cpu_count() or 1}):
        own = folder / f"peer-{workers}"
        peer.write_model(version, own)
        noun = "process" if workers == 1 else "processes"
        running = peer.running(environment, own, workers)
        addresses[f"MLServer, {workers} {noun}"] = stacks.enter_context(running)
    return addresses


def measure_loads(
    folder: Path,
    address: dict[str, str],
    model: str,
    version: Path,
    frames: Path,
    peers: dict[str, str],
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
        images = serving.read_frames(frames)
        for name, score in serving.anomalib_scorers(version, folder).items():
            rows[f"anomalib {name}, one by one"] = partial(serving.repeated, score, images, 1, seconds)
    for kind, callers in (("unary", 1), *(("stream", callers) for callers in arguments.streams)):
        for name in address:
            noun = "unary caller" if kind == "unary" else "stream" if callers == 1 else "streams"
            rows[f"{callers} {noun}, {name}"] = partial(
                serving.served, process[name], address[name], model, frames, kind, callers, seconds
            )
    for callers in _TRITON_CALLERS if peers else ():
        noun = "tritonclient" if callers == 1 else "tritonclients"
        rows[f"{callers} {noun}, after"] = partial(
            triton_load.loaded, address["after"], "tile-patchcore", frames, callers, seconds
        )
        for name, at in peers.items():
            rows[f"{callers} {noun}, {name}"] = partial(
                triton_load.loaded, at, peer.MODEL, frames, callers, seconds
            )
    rounds: dict[str, list[serving.Load]] = {name: [] for name in rows}
    for number in range(arguments.rounds):
        for name, row in rows.items():
            progress(f"round {number + 1} of {arguments.rounds}: {name}")
            rounds[name].append(row())
    return rounds


def write_exactness(version: Path, frames: Path, peers: dict[str, str], report: Report) -> None:
    """Write how far scores lie from those of an exact search by torch's detector on the same network."""
    progress("compare scores with exact ones")
    images = [each.pixels(ImageLimits()) for each in serving.read_frames(frames)]
    _, detector = load_detector(version, "cpu", RuntimeChoice("openvino"))
    with detector.exact_search():
        exact = [detector.predict([detector.prepare(each)])[0].score for each in images]
    _, served = load_for_serving(version, "cpu", RuntimeChoice("openvino"))
    found = {"after": [served.predict([served.prepare(each)])[0].score for each in images]}
    for name, address in peers.items():
        found[name] = triton_load.scores(address, peer.MODEL, frames)
    report.write(
        f"\nLargest relative difference of scores from an exact search, over {len(images)} frames. "
        "The peer decodes and scales frames by OpenCV, so its features differ, too.\n"
    )
    report.write("| | largest difference |\n|---|---:|")
    for name, scores in found.items():
        worst = max(abs(one - other) / abs(other) for one, other in zip(scores, exact, strict=True))
        report.write(f"| {name} | {worst:.4%} |")


def measure_frame_times(
    folder: Path, trees: dict[str, Path], arguments: argparse.Namespace
) -> dict[tuple[str, int], list[dict[str, Parts]]]:
    """Return the times of a frame by commit and number of threads, one for each round."""
    images = folder / "images"
    images.mkdir()
    files = sorted((folder / "tile/train/good").glob("*.png"))[: arguments.frame_images]
    for file in files:
        Image.open(file).convert("RGB").resize((frame_times.SIDE,) * 2).save(images / file.name)
    banks = [str(bank) for bank in arguments.banks]
    script = [sys.executable, "-W", "ignore", frame_times.__file__]
    for name, tree in trees.items():
        progress(f"build memory banks, {name}")
        (folder / f"frames-{name}").mkdir()
        with sources(tree):
            given = ["prepare", name, str(folder / f"frames-{name}"), str(images), *banks]
            subprocess.run([*script, *given], check=True, cwd=tree, stdout=subprocess.DEVNULL)
    measured: dict[tuple[str, int], list[dict[str, Parts]]] = {}
    with ExitStack() as running:
        processes = {}
        for name, tree in trees.items():
            for threads in sorted({1, os.cpu_count() or 1}):
                given = ["time", name, str(folder / f"frames-{name}"), str(images), str(threads)]
                with sources(tree):
                    process = running.enter_context(
                        subprocess.Popen(
                            [*script, *given],
                            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                            cwd=tree,
                            stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE,
                            text=True,
                        )
                    )
                processes[name, threads] = process
                measured[name, threads] = []
                answer(process)  # ready
        for number in range(arguments.rounds):
            progress(f"frames, round {number + 1} of {arguments.rounds}")
            for key, process in processes.items():
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
                measured[key].append(answer(process))
        for process in processes.values():
            process.communicate()  # the end of its input ends it
    return measured


def answer(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("a process that times frames ended; see its messages above")
    return json.loads(line)


def write_frame_times(
    measured: dict[tuple[str, int], list[dict[str, Parts]]],
    arguments: argparse.Namespace,
    report: Report,
) -> None:
    report.write(
        f"\nMilliseconds of a frame of {frame_times.SIDE} px in process, medians of {arguments.rounds} "
        f"rounds of {frame_times.FRAMES} frames. Each commit has its own default features. Entries are a "
        "greedy coreset of the training images. EfficientAD has random weights, which cost the same "
        "as trained ones.\n"
    )
    threads = sorted({count for _, count in measured})
    columns = [f"{count} thread{'s' * (count > 1)}: frame | network | search" for count in threads]
    report.write(f"| | {' | '.join(columns)} |\n|---|{'---:|' * 3 * len(threads)}")
    for name in dict.fromkeys(name for name, _ in measured):
        for row in measured[name, threads[0]][0]:
            cells = []
            for count in threads:
                rounds = [each[row] for each in measured[name, count]]
                for part in ("frame", "network", "search"):
                    known = part in rounds[0]
                    cells.append(f"{median(each[part] for each in rounds):.2f}" if known else "-")
            report.write(f"| {row}, {name} | {' | '.join(cells)} |")


def write_loads(
    rounds: dict[str, list[serving.Load]], version: Path, arguments: argparse.Namespace, report: Report
) -> None:
    def middle(name: str, figure: str) -> float:
        return float(median(getattr(load, figure) for load in rounds[name]))

    best = max(middle(name, "rate") for name in rounds if name.startswith("in process"))
    entries = len(TensorFile(version / WEIGHTS)["memory_bank"])
    side = read_manifest(version).input_size
    report.write(
        f"\nA model with {entries:,} entries and inputs of {side} px, which anomalib and the peer "
        f"have, too; {arguments.seconds:g} s per row, medians of {arguments.rounds} rounds. The limit is "
        "the better of the rows in process. tritonclients are unary callers.\n"
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
    options.add_argument("--banks", type=int, nargs="+", default=[2_800, 10_000, 28_000])
    options.add_argument("--no-peer", action="store_true", help="without the peer server")
    options.add_argument("--no-frames", action="store_true", help="without the times of frames in process")
    options.add_argument(
        "--cache", type=Path, default=environments.default_cache(), help="folder of installed environments"
    )
    options.add_argument(
        "--quick",
        action="store_true",
        help="3 rounds, rows of 1 s, small banks; without the size before unless it is cached",
    )
    arguments = options.parse_args()
    arguments.frame_images = _FRAME_IMAGES
    if arguments.quick:
        arguments.seconds, arguments.rounds, arguments.banks = 1.0, 3, [2_800, 10_000]
        arguments.streams, arguments.frame_images = [1, 4], 16
    with (
        tempfile.TemporaryDirectory() as made,
        section("bench_edge", "Footprint and speed", arguments) as report,
    ):
        bench(Path(made), arguments, report)


if __name__ == "__main__":
    main()
