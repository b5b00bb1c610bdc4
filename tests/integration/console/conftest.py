# SPDX-License-Identifier: Apache-2.0
"""A stack of their own for the tests of the console, and a browser."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.integration.conftest import RunningStack, running_stack, trained_tile
from tests.support.browser import Window, chromium, console, window

from blemish_client import Client, Store, StreamPolicy
from blemish_client.demo.surfaces import generate
from blemish_client.errors import NotFound

MARKUP = "<img src=x onerror=\"document.title='taken over'\">"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, surfaces: Path) -> Iterator[RunningStack]:
    """Run a stack for these tests alone: others stream from hundreds of cameras, and count what is kept."""
    with running_stack(tmp_path_factory.mktemp("console-stack"), surfaces) as running:
        yield running


@pytest.fixture(scope="session")
def tile_model(stack: RunningStack) -> str:
    return trained_tile(stack)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def opened(browser: Any) -> Iterator[Window]:
    with window(browser) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(stack: RunningStack, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a console of the stack, which has no access file."""
    with console(stack.address, tmp_path_factory.mktemp("console")) as url:
        yield url


@pytest.fixture(scope="session")
def kept_frames(
    stack: RunningStack, tile_model: str, tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Keep four frames of a camera whose name is markup, and return their names, the newest first."""
    folder = tmp_path_factory.mktemp("frames")
    generate(folder, "tile", seed=91, train=4, good=1, defective=1, size=128)
    images = [path.read_bytes() for path in sorted((folder / "train/good").glob("*.png"))]
    with Client(stack.address) as client:
        list(client.stream(images, "tile", camera=MARKUP, store=Store.ALL, policy=StreamPolicy.BLOCK))
        quoted = '"' + MARKUP.replace('"', '\\"') + '"'
        return kept(client, "tile", len(images), where=f"source = camera AND camera = {quoted}")


def kept(client: Client, model: str, count: int, where: str = "source = camera") -> list[str]:
    """Wait until a number of frames of a model are kept, and return their names, the newest first."""
    give_up = time.monotonic() + 20
    found: list[str] = []
    while len(found) != count:
        assert time.monotonic() < give_up, f"{len(found)} of {count} frames are kept"
        time.sleep(0.1)
        with suppress(NotFound):  # the first frame creates the index
            found = [item.item for item in client.items(model, where=where, order_by="time desc")]
    return found
