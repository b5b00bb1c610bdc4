# SPDX-License-Identifier: Apache-2.0
"""Write screenshots of the console's pages, light and dark, on drawn surfaces.

``python -m tests.support.console_screenshots FOLDER`` runs a stack of its own and takes a minute or two.
"""

import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from tests.support.browser import chromium, console, window
from tests.support.running_stack import running_stack

from blemish.v1.job_pb2 import PatchCore
from blemish_client import Client, Label, Store, StreamPolicy
from blemish_client.demo.surfaces import generate
from blemish_console import texts

_PAGES = {
    "line": ("/line", ".bl-tile img"),
    "review": ("/review?model=tile&order=least-certain", ".bl-image"),
    "summary": ("/review/summary?model=tile", ".bl-table"),
    "search": ("/search?model=tile&item={item}", ".bl-hit img"),
    "data": ("/data?dataset=tile", ".bl-shot"),
    "image": ("/data/image?dataset=tile&path=test/crack/000.png", ".bl-draw > img"),
    "train": ("/train", ".bl-setting"),
    "job": ("/train?job={job}", ".bl-log"),
    "models": ("/models?version=tile/1", ".bl-report"),
    "compare": ("/compare?model=tile", ".bl-table"),
    "threshold": ("/models?version=tile/1", ".bl-threshold"),
    "system": ("/system", ".bl-table"),
}
_SIZE = {"width": 1280, "height": 800}
_SETTLE_MS = 4000
_WITHIN_MS = 60_000
_MAX_BYTES = 150_000


def main() -> None:
    """Write a WebP file for each page and theme."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        generate(home / "surfaces/tile", "tile", seed=7, train=24, good=6, defective=8, size=256)
        generate(home / "line", "tile", seed=21, train=1, good=10, defective=12, size=512)
        with (
            running_stack(home / "stack", home / "surfaces") as stack,
            Client(stack.address) as client,
            console(stack.address, home / "console") as url,
            chromium() as browser,
        ):
            frames = _fill(client, home)
            for theme in ("light", "dark"):
                _write(browser, url, theme, folder, client, frames)


def _fill(client: Client, home: Path) -> list[bytes]:
    """Train a model, keep frames of two cameras, and label some. Return the frames."""
    client.import_dataset("tile", str(home / "surfaces/tile"))
    client.wait(client.train("tile", model_id="tile", promote=True))
    client.wait(
        client.train("tile", model_id="tile", detector=PatchCore(input_size=96, coreset_ratio=0.02))
    )
    client.wait(client.embed("tile/1", "tile"))
    frames = [path.read_bytes() for path in sorted((home / "line/test").rglob("*.png"))]
    for camera, part in (("line-3 left", frames[::2]), ("line-3 right", frames[1::2])):
        list(client.stream(part, "tile", camera=camera, store=Store.ANOMALOUS, policy=StreamPolicy.BLOCK))
    time.sleep(2)  # frames are kept after their answers
    kept = list(client.items("tile", where="source = camera AND verdict = anomalous"))
    for item in kept[:3]:
        client.label(item.item, "tile", Label.CONFIRMED, "crack")
    for item in kept[3:5]:
        client.label(item.item, "tile", Label.FALSE_ALARM)
    return frames


def _write(browser: Any, url: str, theme: str, folder: Path, client: Client, frames: list[bytes]) -> None:
    job = next(job.name for job in client.jobs() if job.HasField("train"))
    item = next(iter(client.items("tile", where="source = camera AND label = confirmed"))).item
    with window(browser, viewport=_SIZE, color_scheme=theme) as opened:
        for name, (path, selector) in _PAGES.items():
            opened.page.goto(url + path.format(job=job, item=item))
            if name == "line":  # it shows the images that arrive while it is open
                opened.page.locator(".bl-tile").first.wait_for(timeout=_WITHIN_MS)
                for camera, part in (("line-3 left", frames[:3]), ("line-3 right", frames[-3:])):
                    for frame in part:
                        client.score(frame, "tile", camera=camera)
            opened.page.locator(selector).first.wait_for(timeout=_WITHIN_MS)
            if name == "threshold":
                _move_threshold(opened.page)
            opened.shows(texts.CONNECTED)
            opened.page.wait_for_timeout(_SETTLE_MS)
            file = folder / f"{name}-{theme}.webp"
            _compress(opened.page.screenshot(), file)
            print(f"{file}: {file.stat().st_size} bytes")


def _move_threshold(page: Any) -> None:
    """Drag the threshold to the right, and show the frames that get another verdict."""
    line = page.locator(".bl-threshold")
    line.evaluate("line => line.closest('.bl-card').scrollIntoView({block: 'start'})")
    page.mouse.wheel(0, -60)  # below the header
    page.wait_for_timeout(_SETTLE_MS)
    box = line.bounding_box()
    left, top = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left + 60, top, steps=5)
    page.mouse.up()


def _compress(png: bytes, file: Path) -> None:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for quality in (85, 70, 55, 40):
        image.save(file, quality=quality, method=6)
        if file.stat().st_size <= _MAX_BYTES:
            return
    raise ValueError(f"{file} is larger than {_MAX_BYTES} bytes; make the picture simpler")


if __name__ == "__main__":
    main()
