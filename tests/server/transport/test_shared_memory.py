# SPDX-License-Identifier: Apache-2.0
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from blemish_core.platform.errors import (
    AlreadyExists,
    BlemishError,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
)
from blemish_server.transport.shared_memory import SharedMemory, SharedPart

ME, OTHER = "line-1", "line-2"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[SharedMemory]:
    (tmp_path / "frames").write_bytes(bytes(range(100)))
    memory = SharedMemory(enabled=True, max_bytes=60, folder=tmp_path)
    yield memory
    memory.close()


def test_region_is_read_written_listed_and_removed(memory: SharedMemory, tmp_path: Path) -> None:
    memory.register(ME, "input", "/frames", 10, 50)
    assert memory.read(ME, SharedPart("input", 5, 3)) == bytes([15, 16, 17])
    memory.write(ME, SharedPart("input", 0, 4), b"abc")
    assert (tmp_path / "frames").read_bytes()[10:14] == b"abc\x0d"
    assert (memory.status(ME)["input"].key, memory.status(ME, "input")["input"].byte_size) == (
        "/frames",
        50,
    )

    memory.unregister(ME, "input")

    assert memory.status(ME) == {}
    with pytest.raises(NotFound, match="there is no region 'input'"):
        memory.read(ME, SharedPart("input", 0, 1))
    memory.unregister(ME, "input")  # as in Triton, this is not an error
    assert (tmp_path / "frames").exists()


def test_callers_have_their_own_regions(memory: SharedMemory) -> None:
    memory.register(ME, "input", "frames", 0, 100)
    memory.register(OTHER, "input", "frames", 0, 10)
    memory.unregister(OTHER)
    assert memory.status(OTHER) == {}
    assert memory.read(ME, SharedPart("input", 0, 1)) == b"\0"
    with pytest.raises(AlreadyExists, match="unregister it first"):
        memory.register(ME, "input", "frames", 0, 100)


@pytest.mark.parametrize(
    "key", ["", "/", "..", "/..", "../frames", "/a/b", "/frames/", "a\0b", "sem.lock", "n" * 256, "."]
)
def test_key_names_an_object_and_no_path(memory: SharedMemory, key: str) -> None:
    with pytest.raises(InvalidRequest, match="is not the key of a shared memory object"):
        memory.register(ME, "input", key, 0, 1)


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 101), (100, 1), (1, 100), (0, 0), (1 << 63, 1 << 63), ((1 << 64) - 1, 1)]
)
def test_region_lies_within_the_object(memory: SharedMemory, offset: int, size: int) -> None:
    with pytest.raises(InvalidRequest):
        memory.register(ME, "input", "frames", offset, size)
    assert memory.status(ME) == {}


@pytest.mark.parametrize(
    ("offset", "size"), [(-1, 2), (0, -1), (0, 51), (50, 1), (1 << 62, 1), (0, 1 << 62)]
)
def test_part_lies_within_the_region(memory: SharedMemory, offset: int, size: int) -> None:
    memory.register(ME, "input", "frames", 0, 50)
    with pytest.raises(InvalidRequest, match="exceeds the region"):
        memory.read(ME, SharedPart("input", offset, size))
    with pytest.raises(InvalidRequest):
        memory.write(ME, SharedPart("input", offset, size), b"")


def test_large_tensor_is_rejected(memory: SharedMemory) -> None:
    memory.register(ME, "input", "frames", 0, 100)
    with pytest.raises(InvalidRequest, match="more than the 60 of BLEMISH_MAX_MESSAGE_BYTES"):
        memory.read(ME, SharedPart("input", 0, 61))


def test_output_that_does_not_fit_is_rejected(memory: SharedMemory, tmp_path: Path) -> None:
    memory.register(ME, "output", "frames", 0, 50)
    with pytest.raises(InvalidRequest, match="an output has 5 bytes"):
        memory.write(ME, SharedPart("output", 46, 4), b"12345")
    assert (tmp_path / "frames").read_bytes() == bytes(range(100))


def test_object_that_shrinks_causes_an_error(memory: SharedMemory, tmp_path: Path) -> None:
    memory.register(ME, "input", "frames", 0, 50)
    os.truncate(tmp_path / "frames", 20)
    with pytest.raises(InvalidRequest, match="has shrunk"):
        memory.read(ME, SharedPart("input", 10, 20))
    with pytest.raises(InvalidRequest, match="has shrunk"):
        memory.write(ME, SharedPart("input", 10, 20), b"x")
    assert (tmp_path / "frames").stat().st_size == 20


@pytest.mark.parametrize("kind", ["missing", "link", "folder", "pipe"])
def test_only_regular_objects_are_opened(memory: SharedMemory, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing"
    if kind == "link":
        path.symlink_to(tmp_path / "frames")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(BlemishError):
        memory.register(ME, "input", "thing", 0, 1)


def test_number_of_regions_is_limited(memory: SharedMemory) -> None:
    for number in range(64):
        memory.register(ME, str(number), "frames", 0, 1)
    with pytest.raises(FailedPrecondition, match="unregister some first"):
        memory.register(ME, "one too many", "frames", 0, 1)
    memory.register(OTHER, "one", "frames", 0, 1)


def test_disabled_memory_names_the_setting(tmp_path: Path) -> None:
    memory = SharedMemory(enabled=False, max_bytes=60, folder=tmp_path)
    for call in (
        lambda: memory.register(ME, "a", "frames", 0, 1),
        lambda: memory.unregister(ME),
        lambda: memory.status(ME),
        lambda: memory.read(ME, SharedPart("a", 0, 1)),
    ):
        with pytest.raises(FailedPrecondition, match="set BLEMISH_SHARED_MEMORY=true"):
            call()
