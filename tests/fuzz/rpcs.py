# SPDX-License-Identifier: Apache-2.0
"""Calls of every RPC with random, boundary and mutated messages, in wrong orders and cancelled at any time.

    python -m tests.fuzz.rpcs [--minutes 5] [--seed 1]

It starts a stack of its own. A status INTERNAL, UNKNOWN or DATA_LOSS, an UNAVAILABLE server, and a call
without an end are findings.
"""

import argparse
import sys
import time
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from tests.fuzz.messages import Pool, messages, mutated
from tests.support.hostile_images import small_images
from tests.support.running_stack import RunningStack, running_stack
from tritonclient.grpc import service_pb2

from blemish.v1 import dataset_pb2, inspection_pb2, job_pb2, model_pb2, search_pb2, server_pb2
from blemish.v1.model_pb2_grpc import ModelServiceStub
from blemish_client import Client
from blemish_client.demo.surfaces import generate

FINDINGS = {
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAVAILABLE,
}
_DEADLINE_S = 30.0
_FILES = (dataset_pb2, inspection_pb2, job_pb2, model_pb2, search_pb2, server_pb2, service_pb2)


@dataclass(frozen=True)
class Call:
    """One call: serialized messages, and when it is cancelled."""

    method: str
    messages: tuple[bytes, ...]
    cancel_after_s: float | None
    """Time after which the client cancels; None for never."""
    timeout_s: float
    pause_s: float
    """Pause between two messages."""


def methods() -> dict[str, MethodDescriptor]:
    """Return the descriptors of all methods by their paths."""
    return {
        f"/{service.full_name}/{method.name}": method
        for file in _FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def calls(path: str, pool: Pool) -> SearchStrategy[Call]:
    """Return a strategy of calls of one method."""
    return _calls(path, methods()[path], pool)


@st.composite
def _calls(draw: DrawFn, path: str, method: MethodDescriptor, pool: Pool) -> Call:
    count = draw(st.integers(0, 6)) if method.client_streaming else 1
    sent = []
    for _ in range(count):
        data = draw(messages(method.input_type, pool)).SerializeToString()
        sent.append(draw(mutated(data)) if draw(st.integers(0, 7)) == 0 else data)
    cancelled = draw(st.integers(0, 4)) == 0
    return Call(
        path,
        tuple(sent),
        draw(st.floats(0, 0.2)) if cancelled else None,
        draw(st.sampled_from([*[_DEADLINE_S] * 6, 0.001, 0.05, 1.0])),
        draw(st.sampled_from([0.0, 0.0, 0.01])),
    )


def perform(channel: grpc.Channel, call: Call, *, server_streaming: bool) -> grpc.StatusCode:
    """Make a call, read all of its responses, and return its status."""

    def send() -> Iterator[bytes]:
        for message in call.messages:
            yield message
            time.sleep(call.pause_s)

    # The wire format is the same for all kinds of calls.
    stub: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(call.method)
    running = stub(send(), timeout=call.timeout_s)
    if call.cancel_after_s is not None:
        time.sleep(call.cancel_after_s)
        running.cancel()
    elif server_streaming and "Watch" in call.method:
        time.sleep(0.05)
        running.cancel()
    with suppress(grpc.RpcError):
        for _ in running:
            pass
    status: grpc.StatusCode = running.code()
    return status


def details(channel: grpc.Channel, call: Call) -> str:
    """Repeat a call and return the description of its status."""
    stub: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(call.method)
    running = stub(iter(call.messages), timeout=_DEADLINE_S)
    with suppress(grpc.RpcError):
        for _ in running:
            pass
    return f"{running.code()}: {running.details()}"


def prepare(stack: RunningStack) -> dict[str, Sequence[Any]]:
    """Train a model, index images and store frames; return plausible values of fields."""
    with Client(stack.address) as client:
        client.import_dataset("tile", str(stack.surfaces / "tile"))
        client.create_dataset("few")
        trained = client.wait(client.train("tile", model_id="tile", promote=True))
        assert not trained.error, trained.error
        version = trained.result.model_version
        embedded = client.wait(client.embed(version, "tile"))
        assert not embedded.error, embedded.error
        image = next((stack.surfaces / "tile" / "test").glob("*/*.png")).read_bytes()
        hits = list(client.search(image, "tile", limit=3))
        exported = b"".join(_exported(stack.address, version))
    items = [hit.item for hit in hits if hit.item]
    jobs = [trained.name, embedded.name, "jobs/none"]
    images = [image, *small_images().values()]
    models = ["models/tile", version, "models/tile@production", "models/none"]
    return {
        "model": models,
        "name": [*models, "datasets/tile", "datasets/few", *jobs, "tile"],
        "model_name": ["tile", "none"],
        "model_version": ["", "1", "production"],
        "version": ["", "1"],
        "model_id": ["tile", "other", ""],
        "models": models,
        "cameras": ["", "left"],
        "dataset": ["datasets/few", "datasets/none", "datasets/tile"],
        "datasets": ["datasets/tile", "datasets/none"],
        "dataset_id": ["few", "new", "tile"],
        "job": jobs,
        "item": items,
        "like": items,
        "unlike": items,
        "labelled": ["crack", "none"],
        "where": ["score > 0", "label = NONE", "time > 2026-01-31T08:00:00Z", "(", "class = crack OR x"],
        "group_by": ["class", "dataset", "label", "score"],
        "path": [str(stack.surfaces / "tile"), "/etc", "train/good/x.png", "test/crack/000.png", ""],
        "paths": ["train/good/000.png", "test/crack/000.png", "../x"],
        "path_prefix": ["train/", "test/crack/"],
        "page_token": _tokens(),
        "pixel_format": ["Mono8", "Mono12", "RGB8", "BayerRG8"],
        "encoded": images,
        "png": images,
        "mask": images,
        "data": [bytes(32 * 32), bytes(64)],
        "chunk": [image, exported[:4000], exported, b""],
        "sha256": [b"", bytes(32)],
        "bytes_contents": images[:3],
        "raw_input_contents": [len(image).to_bytes(4, "little") + image, b"\xff\xff\xff\xff"],
        "datatype": ["BYTES", "UINT8", "FP32"],
        "author": ["maria"],
        "size": ["small", "medium"],
        "backbone": ["resnet18"],
        "after_line": ["0-0", "1-1", "x", "9" * 40],
    }


def _tokens() -> list[str]:
    pages = [
        f"{kind}:{last}"
        for kind in ("items", "datasets", "images", "jobs", "models")
        for last in ("a", "\0", "9" * 9)
    ]
    return [urlsafe_b64encode(page.encode()).decode() for page in pages]


def _exported(address: str, version: str) -> Iterator[bytes]:
    with grpc.insecure_channel(address) as channel:
        stub = ModelServiceStub(channel)
        for response in stub.ExportModel(model_pb2.ExportModelRequest(name=version)):
            yield response.chunk


class Driver:
    """Random calls against one stack, with a count of their statuses."""

    def __init__(self, stack: RunningStack, pool: Pool) -> None:
        self._stack = stack
        self._pool = pool
        self.statuses: Counter[tuple[str, str]] = Counter()
        self.findings: dict[str, str] = {}

    def run(self, path: str, examples: int, number: int, *, derandomize: bool = False) -> None:
        """Make calls of one method; raise AssertionError with the smallest one that is a finding."""
        streaming = methods()[path].server_streaming
        with grpc.insecure_channel(
            self._stack.address, options=[("grpc.max_receive_message_length", -1)]
        ) as channel:

            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate, Phase.shrink],
                derandomize=derandomize,
                report_multiple_bugs=False,
                print_blob=False,
            )
            @given(calls(path, self._pool))
            def make(call: Call) -> None:
                status = perform(channel, call, server_streaming=streaming)
                self.statuses[path, status.name] += 1
                assert status not in FINDINGS, f"{status} {details(channel, call)} {call!r:.3000}"

            (make if derandomize else seed(number)(make))()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--minutes", type=float, default=5.0)
    options.add_argument("--examples", type=int, default=50, help="calls of a method in one round")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("methods", nargs="*", help="ends of the methods' names")
    arguments = options.parse_args()
    with TemporaryDirectory() as folder:
        surfaces = Path(folder) / "surfaces"
        generate(surfaces / "tile", "tile", seed=7, train=24, good=6, defective=8, size=128)
        with running_stack(Path(folder) / "stack", surfaces) as stack:
            driver = Driver(stack, prepare(stack))
            paths = [path for path in methods() if path.endswith(tuple(arguments.methods) or "")]
            until, number = time.monotonic() + 60 * arguments.minutes, arguments.seed
            findings: dict[str, str] = {}
            while time.monotonic() < until:
                for path in paths:
                    if path in findings:
                        continue
                    try:
                        driver.run(path, arguments.examples, number)
                    except AssertionError as error:
                        findings[path] = str(error)
                        print(f"FINDING {path}: {error}", flush=True)
                number += 1
    for (path, status), count in sorted(driver.statuses.items()):
        print(f"{path} {status} {count}")
    print(f"stat::number_of_executed_units: {driver.statuses.total()}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
