# SPDX-License-Identifier: Apache-2.0
"""Score two cameras in one event loop: ``python asyncio_stream.py MODEL FOLDER``."""

import asyncio
import os
import sys
from pathlib import Path

from blemish_client import AsyncClient, Frame, FrameResult, StreamPolicy


async def watch(client: AsyncClient, model: str, files: list[Path], camera: str) -> None:
    frames = [Frame(file, name=file.name) for file in files]
    async for result in client.stream(frames, model, camera=camera, policy=StreamPolicy.BLOCK):
        if isinstance(result, FrameResult) and result.inspection is not None:
            print(f"{camera} {result.name}: score {result.inspection.score:.3f}")


async def main() -> None:
    model, folder = sys.argv[1:]
    files = sorted(Path(folder).glob("*.png"))
    async with AsyncClient(os.environ.get("BLEMISH_SERVER", "localhost:50051")) as client:
        cameras = {"left": files[::2], "right": files[1::2]}
        await asyncio.gather(*(watch(client, model, each, name) for name, each in cameras.items()))


asyncio.run(main())
