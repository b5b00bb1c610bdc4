# SPDX-License-Identifier: Apache-2.0
"""Unary callers of the Open Inference Protocol by tritonclient, in a process of their own.

python -m tests.benchmarks.edge.triton_load ADDRESS MODEL FRAMES CALLERS SECONDS
"""

import asyncio
import itertools
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tests.benchmarks.bench_serving import Load, summarized
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc import aio as triton

_MODULE = "tests.benchmarks.edge.triton_load"


def loaded(address: str, model: str, frames: Path, callers: int, seconds: float) -> Load:
    """Load a server from another process."""
    arguments = (address, model, str(frames), str(callers), str(seconds))
    ran = subprocess.run(
        [sys.executable, "-m", _MODULE, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return Load(**json.loads(ran.stdout))


def inputs(file: Path) -> list[InferInput]:
    tensor = InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([file.read_bytes()], dtype=np.object_))
    return [tensor]


async def scored(client: Any, model: str, given: list[InferInput]) -> float:
    answer = await client.infer(model, given, outputs=[InferRequestedOutput("score")])
    return float(answer.as_numpy("score")[0])


def scores(address: str, model: str, frames: Path) -> list[float]:
    """Return the score of each frame."""

    async def all_scores() -> list[float]:
        async with triton.InferenceServerClient(address) as client:
            return [await scored(client, model, inputs(file)) for file in sorted(frames.iterdir())]

    return asyncio.run(all_scores())


async def generated(address: str, model: str, frames: Path, callers: int, seconds: float) -> Load:
    given = [inputs(file) for file in sorted(frames.iterdir())]
    took: list[float] = []

    async def call(client: Any) -> None:
        for each in itertools.cycle(given):
            before = time.perf_counter()
            if before > until_s:
                return
            await scored(client, model, each)
            took.append(time.perf_counter() - before)

    async with triton.InferenceServerClient(address) as client:
        began = time.perf_counter()
        until_s = began + seconds
        await asyncio.gather(*(call(client) for _ in range(callers)))
    return summarized(took, time.perf_counter() - began, 0)


def main() -> None:
    address, model, frames, callers, seconds = sys.argv[1:]
    load = asyncio.run(generated(address, model, Path(frames), int(callers), float(seconds)))
    print(json.dumps(asdict(load)))


if __name__ == "__main__":
    main()
