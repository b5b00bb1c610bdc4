# SPDX-License-Identifier: Apache-2.0
"""Measure the latency of a caller while another one attacks the server.

    python -m tests.benchmarks.bench_attacks [--seconds 10] [--rounds 3]

Model and frames are those of bench_serving. The victim scores one image after another. The attacker is a
process of low priority on the same cores, so that the server's work is measured and not the attacker's.
Each attack takes turns with a quiet scene of the same length. Attackers with a token have limits in the
access file.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
from tests.benchmarks import bench_serving as serving
from tests.benchmarks.report import Report, parser, section
from tests.support import http2

from blemish.v1.image_pb2 import Image
from blemish.v1.inspection_pb2 import Frame, ScoreRequest, ScoreStreamRequest, StreamConfig
from blemish.v1.inspection_pb2_grpc import InspectionServiceStub
from blemish_server.auth import access
from blemish_server.auth.access import Role
from blemish_server.auth.limits import CallerLimits

_LIMITS = CallerLimits(streams=8, requests_per_second=20, bytes_per_second=10_000_000)
_PAUSE_S = 0.02
_WARM_UP_S = 1.0
"""Time from the start of the attack to the first measured call."""
_CALLS_PER_CONNECTION = 2000
_SILENT_CONNECTIONS = 1000
_INFO = "/blemish.v1.ServerService/GetServerInfo"
_SCORE_STREAM = "/blemish.v1.InspectionService/ScoreStream"


@dataclass(frozen=True)
class Scene:
    """The victim's calls in one scene."""

    p50_ms: float
    p99_ms: float
    calls: int
    failed: int


def victim(plan: dict[str, Any]) -> Scene:
    images = [file.read_bytes() for file in sorted(Path(plan["frames"]).iterdir())]
    took_s, failed, number = list[float](), 0, 0
    metadata = (("authorization", f"Bearer {plan['token']}"),)
    with grpc.insecure_channel(plan["address"]) as channel:
        score: Any = InspectionServiceStub(channel).Score  # type: ignore[no-untyped-call,unused-ignore]
        until_s = time.perf_counter() + plan["seconds"]
        while time.perf_counter() < until_s:
            request = ScoreRequest(model=plan["model"], image=Image(encoded=images[number % len(images)]))
            number += 1
            start_s = time.perf_counter()
            try:
                score(request, metadata=metadata, timeout=30)
                took_s.append(time.perf_counter() - start_s)
            except grpc.RpcError:
                failed += 1
            time.sleep(_PAUSE_S)
    p50, p99 = np.quantile(took_s or [np.nan], [0.5, 0.99]) * 1000
    return Scene(float(p50), float(p99), len(took_s), failed)


class Attacker:
    """Attacks a server until it is killed."""

    def __init__(self, plan: dict[str, Any]) -> None:
        host, _, port = plan["address"].rpartition(":")
        self._at = (host, int(port))
        self._plan = plan

    def connections(self) -> None:
        """Open connections as fast as possible, and send nothing."""
        opened: list[socket.socket] = []
        while True:
            with suppress(OSError):
                opened.append(self._connect())
            if len(opened) >= _SILENT_CONNECTIONS:
                for connection in opened:
                    connection.close()
                opened.clear()

    def handshakes(self) -> None:
        """Send the preface of many connections a byte at a time."""
        opened: list[tuple[socket.socket, Iterator[int]]] = []
        while True:
            while len(opened) < _SILENT_CONNECTIONS:
                opened.append((self._connect(), iter(http2.PREFACE * 9)))
            kept = []
            for connection, left in opened:
                with suppress(OSError):
                    connection.sendall(bytes([next(left)]))
                    kept.append((connection, left))
            opened = kept
            time.sleep(0.5)

    def malformed(self) -> None:
        """Send malformed frames and floods of small ones."""
        for seed in range(1 << 30):
            for _, sent in http2.malformed(_INFO, seed):
                with suppress(OSError), self._connect() as connection:
                    connection.sendall(sent)

    def calls(self, token: str) -> None:
        """Call as fast as the connection takes it."""
        calls = [http2.call(_INFO, stream, token) for stream in range(1, 2 * _CALLS_PER_CONNECTION, 2)]
        self._pump(b"".join(calls))

    def resets(self) -> None:
        """Begin calls and cancel them at once."""
        pairs = (
            http2.call(_INFO, stream, end=False) + http2.reset(stream)
            for stream in range(1, 2 * _CALLS_PER_CONNECTION, 2)
        )
        self._pump(b"".join(pairs))

    def silent_streams(self, token: str) -> None:
        """Open streams that send nothing."""
        calls = [http2.call(_SCORE_STREAM, stream, token, end=False) for stream in range(1, 1000, 2)]
        opened: list[socket.socket] = []
        while len(opened) < 20:
            opened.append(self._connect())
            opened[-1].sendall(http2.PREFACE + http2.frame(http2.SETTINGS) + b"".join(calls))
        time.sleep(600)

    def small_messages(self, token: str) -> None:
        """Send frames of a few bytes as fast as flow control allows."""
        metadata = (("authorization", f"Bearer {token}"),)
        config = ScoreStreamRequest(config=StreamConfig(model=self._plan["model"]))
        frame = ScoreStreamRequest(frame=Frame(image=Image(encoded=b"x")))

        def messages() -> Iterator[ScoreStreamRequest]:
            yield config
            while True:
                yield frame

        def attack() -> None:
            with grpc.insecure_channel(
                self._plan["address"], [("grpc.use_local_subchannel_pool", 1)]
            ) as one:
                stub: Any = InspectionServiceStub(one)  # type: ignore[no-untyped-call,unused-ignore]
                while True:
                    with suppress(grpc.RpcError):
                        for _ in stub.ScoreStream(messages(), metadata=metadata):
                            pass

        for _ in range(4):
            threading.Thread(target=attack, daemon=True).start()
        time.sleep(600)

    def _pump(self, sent: bytes) -> None:
        opened = http2.PREFACE + http2.frame(http2.SETTINGS)
        while True:
            with suppress(OSError), self._connect() as connection:
                threading.Thread(target=_discard, args=(connection,), daemon=True).start()
                connection.sendall(opened + sent)
                connection.shutdown(socket.SHUT_WR)

    def _connect(self) -> socket.socket:
        return socket.create_connection(self._at, timeout=5)


def _discard(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(1 << 16):
            pass


_ATTACKS: dict[str, tuple[str, str]] = {
    "connections that send nothing": ("connections", ""),
    "handshakes of a byte at a time": ("handshakes", ""),
    "malformed HTTP/2": ("malformed", ""),
    "calls that are cancelled at once": ("resets", ""),
    "calls without a token": ("calls", "none"),
    "calls above the limits": ("calls", "limited"),
    "streams that send nothing": ("silent_streams", "limited"),
    "small messages above the limits": ("small_messages", "limited"),
}
"""The method of each attack, and the token that it takes."""


def attack(plan: dict[str, Any]) -> None:
    os.nice(19)
    method, token = _ATTACKS[plan["attack"]]
    tokens = {"none": "", "limited": plan["limited_token"]}
    getattr(Attacker(plan), method)(*([tokens[token]] if token else []))


def _process(role: str, plan: dict[str, Any]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.benchmarks.bench_attacks", f"--{role}", json.dumps(plan)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def measured(plan: dict[str, Any]) -> Scene:
    """Run the victim in a process of its own."""
    answer, _ = _process("victim", plan).communicate()
    return Scene(**json.loads(answer))


def attacked(plan: dict[str, Any], name: str) -> Scene:
    """Run the victim during an attack."""
    attacker = _process("attack", plan | {"attack": name})
    time.sleep(_WARM_UP_S)
    try:
        return measured(plan)
    finally:
        attacker.kill()
        attacker.wait()


def bench(folder: Path, arguments: argparse.Namespace, report: Report) -> None:
    surface, callers = folder / "tile", folder / "callers.json"
    train = serving.trained_surface(surface)
    serving.jpegs(surface, folder / "frames")
    with serving.running(folder) as address:
        model = train(address)
    (folder / "address").unlink(missing_ok=True)
    plan = {
        "model": model,
        "frames": str(folder / "frames"),
        "seconds": arguments.seconds,
        "token": access.grant(callers, "victim", Role.CAMERA),
        "limited_token": access.grant(callers, "attacker", Role.CAMERA, limits=_LIMITS),
    }
    os.environ["BLEMISH_ACCESS_FILE"] = str(callers)
    results: dict[str, list[tuple[Scene, Scene]]] = {name: [] for name in _ATTACKS}
    with serving.running(folder) as address:
        plan["address"] = address
        measured(plan)  # warm-up
        for _ in range(arguments.rounds):
            for name, scenes in results.items():
                scenes.append((measured(plan), attacked(plan, name)))
    report.write(
        f"One caller scores one image after another, {arguments.seconds:g} s per scene. Medians of "
        f"{arguments.rounds} rounds, each attack right after a quiet scene. Limits of attackers with a "
        f"token: {_LIMITS}.\n"
    )
    report.write(
        "| attack | p50, ms: quiet, attacked | p99, ms: quiet, attacked | ratio of p99 | failed calls |"
    )
    report.write("|---|---|---|---|---|")
    for name, scenes in results.items():
        quiet, busy = zip(*scenes, strict=True)
        p50s = [median(one.p50_ms for one in side) for side in (quiet, busy)]
        p99s = [median(one.p99_ms for one in side) for side in (quiet, busy)]
        report.write(
            f"| {name} | {p50s[0]:.0f}, {p50s[1]:.0f} | {p99s[0]:.0f}, {p99s[1]:.0f} "
            f"| {p99s[1] / p99s[0]:.1f} | {sum(one.failed for one in busy)} |"
        )


def main() -> None:
    if sys.argv[1:2] == ["--victim"]:
        print(json.dumps(vars(victim(json.loads(sys.argv[2])))))
        return
    if sys.argv[1:2] == ["--attack"]:
        attack(json.loads(sys.argv[2]))
        return
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=10.0, help="length of a scene")
    options.add_argument("--rounds", type=int, default=3)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as made, section("bench_attacks", "Attacks", arguments) as report:
        bench(Path(made), arguments, report)


if __name__ == "__main__":
    main()
