# SPDX-License-Identifier: Apache-2.0
"""Removal of images, datasets and models while the stack runs."""

import re
from pathlib import Path

import pytest
from tests.integration.conftest import RunningStack

from blemish.v1.job_pb2 import PatchCore
from blemish_client import Client
from blemish_client.errors import FailedPrecondition, InvalidArgument, NotFound

GRID = "test/bent/000.png"


@pytest.fixture(scope="module")
def doomed(stack: RunningStack) -> str:
    """Make a production version and index the test images of its dataset."""
    with Client(stack.address) as client:
        client.import_dataset("doomed", str(stack.surfaces / "grid"))
        small = PatchCore(input_size=64)
        trained = client.wait(client.train("doomed", model_id="doomed", detector=small, promote=True))
        assert trained.error == ""
        indexed = client.wait(client.embed(trained.result.model_version, "doomed"))
        assert indexed.error == ""
        return trained.result.model_version


def test_removed_images_and_datasets_are_no_longer_found(
    client: Client, stack: RunningStack, doomed: str
) -> None:
    paths = [image.path for image in client.images("doomed")]
    folder = stack.surfaces / "grid"
    layout = ("train/good/*", "test/*/*", "ground_truth/*/*")
    there = sorted(str(file.relative_to(folder)) for pattern in layout for file in folder.glob(pattern))
    assert paths == there
    assert [image.path for image in client.images("doomed", under="test/bent")] == [
        path for path in paths if path.startswith("test/bent")
    ]
    frame = (folder / GRID).read_bytes()
    assert next(iter(client.search(frame, "doomed", 1))).path == GRID
    told = client.delete_images("doomed", [GRID])
    assert (told.removed, told.dataset.masks) == (2, 7)
    assert GRID not in {hit.path for hit in client.search(frame, "doomed", 100)}
    with pytest.raises(NotFound, match=re.escape(GRID)):
        client.delete_images("doomed", ["train/good/000.png", GRID])
    with pytest.raises(InvalidArgument, match="1 to 1000"):
        client.delete_images("doomed", [])
    assert client.dataset("doomed").train_images == 24, "nothing of what was refused was done"

    client.delete_dataset("doomed")
    assert not list(client.search(frame, "doomed", 100))
    for gone in (client.dataset, client.delete_dataset):
        with pytest.raises(NotFound, match="no datasets/doomed"):
            gone("doomed")
    assert client.score(frame, "doomed").model_version == doomed, "what it learned stays"


def test_removed_model_no_longer_scores(client: Client, stack: RunningStack, doomed: str) -> None:
    frame = (stack.surfaces / "grid" / GRID).read_bytes()
    assert client.score(frame, "doomed").model_version == doomed
    with pytest.raises(InvalidArgument, match="is an alias, which may move"):
        client.delete_model("doomed@production")
    with pytest.raises(FailedPrecondition, match="in production"):
        client.delete_model(doomed)
    with pytest.raises(FailedPrecondition, match=r"in production.*force"):
        client.delete_model("doomed")
    client.pin(doomed)
    with pytest.raises(FailedPrecondition, match="pinned"):
        client.delete_model("doomed", force=True)
    client.pin(doomed, False)
    client.delete_model("doomed", force=True)
    for call in (
        lambda: client.score(frame, "doomed"),
        lambda: client.score(frame, doomed),
        lambda: client.delete_model("doomed"),
    ):
        with pytest.raises(NotFound, match="no model 'doomed'"):
            call()
    with pytest.raises(NotFound):
        client.search(frame, "doomed")
    info = client.server_info()
    assert not [name for name in info.loaded_models if "doomed" in name]
    assert bundles(stack) == []


def bundles(stack: RunningStack) -> list[Path]:
    """Return the versions of a model that the store still has."""
    return [path for path in (stack.data / "store/models/doomed").iterdir() if path.is_dir()]
