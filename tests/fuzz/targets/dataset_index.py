# SPDX-License-Identifier: Apache-2.0
"""The record and the index of a dataset in the store, as a damaged or foreign store may have them."""

from tests.fuzz.target import Target, scratch

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits

_RECORD = b'{"id": "tile", "category": "tile", "create_time": "2026-01-01T00:00:00Z"}'
_LINE = b'{"path":"%s","sha256":"' + b"0" * 64 + b'","size_bytes":3,"width":8,"height":8}\n'


def run(data: bytes) -> None:
    record, _, index = data.partition(b"\0")
    with scratch() as root:
        folder = root / "tile"
        folder.mkdir()
        (folder / "dataset.json").write_bytes(record)
        (folder / "index.jsonl").write_bytes(index)
        (folder / ".lock").touch()
        store = DatasetStore(root, ImageLimits())
        dataset = store.get("tile")
        for entry in store.entries("tile"):
            assert (folder / entry.path).resolve().is_relative_to(folder.resolve())
        assert dataset.train_images + sum(dataset.test_images.values()) == len(store.images("tile"))
        for image in store.images("tile"):
            store.masks_of(image)
        assert set(root.iterdir()) == {folder}


def seeds() -> dict[str, bytes]:
    head = b'{"index":"' + b"0" * 32 + b'"}\n'
    lines = [
        _LINE % path for path in (b"train/good/0.png", b"test/crack/1.png", b"ground_truth/crack/1.png")
    ]
    return {
        "whole": _RECORD + b"\0" + head + b"".join(lines),
        "truncated": _RECORD + b"\0" + head + lines[0][:-9],
        "headless": _RECORD + b"\0" + lines[0],
        "empty": _RECORD + b"\0",
    }


_WORDS = (
    '"path":',
    '"sha256":',
    '"size_bytes":',
    '"width":',
    '"height":',
    '{"index":"',
    "ground_truth/",
    "test/",
    "train/good/",
    ".png",
)

TARGET = Target(run, seeds, words=_WORDS)
