# SPDX-License-Identifier: Apache-2.0
"""A server on a machine without the libraries of training."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.conftest import RunningStack
from tests.support.ports import free_port
from tests.support.processes import wait_for_port

from blemish_client import Client

_REFUSED = ("torch", "torchvision", "anomalib", "timm", "nncf", "pandas", "scipy", "sklearn", "matplotlib")
_MAIN = f"""
import sys
from importlib.machinery import PathFinder


class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, *arguments):
        return None if name.partition(".")[0] in {_REFUSED!r} else PathFinder.find_spec(name, *arguments)


sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
from blemish_server.__main__ import main

main()
"""


@pytest.fixture
def without_torch(stack: RunningStack) -> Iterator[Client]:
    """Connect to a second server on the stack's store, Redis and Qdrant, whose imports of torch fail."""
    lines = (stack.data / "run" / "environment.sh").read_text().splitlines()
    exported = [line.removeprefix("export ") for line in lines if line.startswith("export ")]
    variables = dict(shlex.split(line)[0].split("=", 1) for line in exported)
    address = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [sys.executable, "-c", _MAIN], env=os.environ | variables | {"BLEMISH_LISTEN": address}
    )
    try:
        wait_for_port(address, server)
        with Client(address) as client:
            yield client
    finally:
        server.terminate()
        server.wait(30)


def test_server_without_torch_scores_searches_and_carries_models(
    without_torch: Client, client: Client, stack: RunningStack, tile_model: str, tmp_path: Path
) -> None:
    image = min((stack.surfaces / "tile" / "test").rglob("*.png"))
    expected, found = client.score(image, tile_model), without_torch.score(image, tile_model)
    assert found.score == pytest.approx(expected.score, rel=1e-6)
    hits = without_torch.search(image, tile_model, limit=3)
    assert [hit.item for hit in hits] == [hit.item for hit in client.search(image, tile_model, limit=3)]
    without_torch.export_model(tile_model, tmp_path / "tile.blemish")
    imported = without_torch.import_model(tmp_path / "tile.blemish", model_id="carried")
    again = without_torch.score(image, imported.name)
    assert (again.score, again.runtime) == (found.score, "openvino")
