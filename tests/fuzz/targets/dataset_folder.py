# SPDX-License-Identifier: Apache-2.0
"""Folders to import: trees of any names with files, links, FIFOs and empty folders."""

import os
from contextlib import suppress
from pathlib import Path

from tests.fuzz.source import Source
from tests.fuzz.target import Target, scratch
from tests.support.hostile_images import small_images

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits

_LIMITS = ImageLimits(min_side=4, max_side=512, max_pixels=1 << 16, max_bytes=2048)
_PARTS = ("train", "test", "ground_truth", "good", "crack", "Good", "OK", "NG", "..", "validation")
_IMAGES = [image for image in small_images().values() if len(image) < 2048][:6]


def run(data: bytes) -> None:
    source = Source(data)
    with scratch() as root:
        folder, secret = root / "folder", root / "secret.png"
        folder.mkdir()
        secret.write_bytes(_IMAGES[0])
        while source:
            _add(source, folder, secret)
        before = set(root.rglob("*"))
        store = DatasetStore(root / "store", _LIMITS)
        done = store.import_folder("tile", "", folder, [folder])
        for entry in store.entries("tile"):
            stored = store.read_path("tile", entry.path)
            assert stored, entry.path
        for skipped in done.skipped:
            skipped.path.encode(), skipped.reason.encode()  # protobuf requires valid UTF-8
        assert {path for path in root.rglob("*") if "store" not in path.parts} == before


def _add(source: Source, folder: Path, secret: Path) -> None:
    """Add a file, a link, a FIFO or a folder to the tree."""
    kind, depth = source.integer() % 6, source.integer() % 5
    pieces = [_piece(source) for _ in range(depth + 1)]
    path = folder.joinpath(*[piece for piece in pieces if piece not in ("", ".", "..")])
    with suppress(OSError, ValueError):  # names that the file system refuses
        path.parent.mkdir(parents=True, exist_ok=True)
        match kind:
            case 0 | 1:
                _create(path, source.choice(_IMAGES))
            case 2:
                _create(path, source.block())
            case 3:
                path.symlink_to(source.choice([secret, folder, path, Path(source.text() or "x")]))
            case 4:
                os.mkfifo(path)
            case _:
                path.mkdir()


def _create(path: Path, data: bytes) -> None:
    with path.open("xb") as file:  # never into an existing FIFO
        file.write(data)


def _piece(source: Source) -> str:
    number = source.integer()
    return _PARTS[number] if number < len(_PARTS) else source.text()


def seeds() -> dict[str, bytes]:
    def file(*names: bytes, kind: int = 0, tail: bytes = b"\0") -> bytes:
        return bytes([kind, len(names) - 1]) + b"".join(names) + tail

    def named(name: bytes) -> bytes:
        return bytes([200, len(name)]) + name

    good = file(b"\0", b"\3", named(b"0.png"))
    return {
        "mvtec": good + file(b"\1", b"\4", named(b"1.png")) + file(b"\2", b"\4", named(b"1_mask.png")),
        "names": good
        + file(b"\0", b"\3", named("Bild ü.png".encode()))
        + file(b"\1", b"\6", named(b"x.png")),
        "links": good
        + file(b"\0", b"\3", named(b"2.png"), kind=3)
        + file(b"\0", b"\3", named(b"3.png"), kind=4, tail=b""),
        "deep": good + file(b"\0", b"\3", named(b"2026-01-01"), named(b"1.png")),
    }


TARGET = Target(run, seeds, max_bytes=1024)
