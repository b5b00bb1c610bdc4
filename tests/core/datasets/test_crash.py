# SPDX-License-Identifier: Apache-2.0
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from blemish_core.datasets import DatasetStore
from blemish_core.imaging.decode import ImageLimits
from blemish_core.platform.errors import AlreadyExists, DiskFull, NotFound

Draw = Callable[..., bytes]

# Exits before or after the n-th call that changes the disk.
DYING = """
import os, sys
from pathlib import Path
from blemish_core.datasets import DatasetStore, IncomingFile
from blemish_core.imaging.decode import ImageLimits

folder, first, second = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), Path(sys.argv[3]).read_bytes()

def deadly(name, real):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os._exit(7)
        result = real(*args, **kwargs)
        left -= 1
        if left == 0:
            os._exit(7)
        return result
    setattr(os, name, call)

n = 0
while True:
    n += 1
    child = os.fork()
    if child == 0:
        left = n
        for name in ("fsync", "replace", "rename", "mkdir", "open"):
            deadly(name, getattr(os, name))
        store = DatasetStore(folder / f"{n:03d}", ImageLimits())
        if sys.argv[4] == "add":
            store.create("tile", "")
            store.add("tile", "train/good/0.png", first)
            store.add("tile", "train/good/1.png", second)
        else:
            file = IncomingFile("train/good/0.png", second)
            store.put("tile", file, lambda dataset, digests: None)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
"""


def files_of(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*.png")}


def paths_of(store: DatasetStore) -> set[str]:
    return {image.path for image in store.images("tile")}


def test_crash_at_any_call_leaves_each_image_complete_or_absent(tmp_path: Path, draw: Draw) -> None:
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(draw(number))
    stores = tmp_path / "stores"
    files = map(str, (stores, tmp_path / "0.png", tmp_path / "1.png"))
    subprocess.run([sys.executable, "-c", DYING, *files, "add"], check=True, timeout=60)
    counts = []
    for root in sorted(stores.iterdir()):
        store = DatasetStore(root, ImageLimits())
        try:
            existing = paths_of(store)
        except NotFound:
            existing = set()
            counts.append(-1)
            store.create("tile", "")
        else:
            counts.append(len(existing))
        assert existing in (set(), {"train/good/0.png"}, {"train/good/0.png", "train/good/1.png"})
        for image in store.images("tile"):
            assert store.read(image)  # raises if the bytes do not match the hash
        for number in (0, 1):
            path = f"train/good/{number}.png"
            assert store.add("tile", path, draw(number)) == (path not in existing)
        assert store.get("tile").train_images == 2
        assert not list((root / "tile").rglob(".*.png.*")), "a temporary file remains"
    assert len(counts) > 30
    assert set(counts) == {-1, 0, 1, 2}
    assert counts == sorted(counts), "acknowledged images are kept"


def test_crash_at_any_call_leaves_the_replaced_image_or_its_replacement(tmp_path: Path, draw: Draw) -> None:
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(draw(number))
    stores = tmp_path / "stores"
    for number in range(1, 60):
        store = DatasetStore(stores / f"{number:03d}", ImageLimits())
        store.create("tile", "")
        store.add("tile", "train/good/0.png", draw(0))
    files = map(str, (stores, tmp_path / "0.png", tmp_path / "1.png"))
    subprocess.run([sys.executable, "-c", DYING, *files, "replace"], check=True, timeout=60)
    left = []
    for root in sorted(stores.iterdir()):
        store = DatasetStore(root, ImageLimits())
        (image,) = store.images("tile")
        data = store.read(image)  # raises if the bytes do not match the hash
        left.append([draw(0), draw(1)].index(data))
        store.add("tile", "train/good/2.png", draw(2))  # completes or discards the replacement
        assert (root / "tile" / "train/good/0.png").read_bytes() == data
        assert store.read(store.images("tile")[0]) == data
        assert not list((root / "tile").rglob(".*.png.*")), "a temporary file remains"
    died = left.index(1)
    assert died > 4
    finished = left.index(0, died) if 0 in left[died:] else len(left)
    assert left == [0] * died + [1] * (finished - died) + [0] * (len(left) - finished)


def test_truncated_line_is_overwritten(store: DatasetStore, root: Path, draw: Draw) -> None:
    store.create("tile", "")
    store.add("tile", "train/good/0.png", draw(0))
    index = root / "tile" / "index.jsonl"
    complete = len(index.read_bytes())
    store.add("tile", "train/good/1.png", draw(1))
    lines = index.read_bytes()
    for end in range(complete, len(lines), 9):
        index.write_bytes(lines[:end])
        reopened = DatasetStore(root, ImageLimits())
        assert paths_of(reopened) == {"train/good/0.png"}
        assert reopened.add("tile", "train/good/1.png", draw(1))
        assert index.read_bytes() == lines


def test_long_truncated_line_is_overwritten(store: DatasetStore, root: Path, draw: Draw) -> None:
    store.create("tile", "")
    index = root / "tile" / "index.jsonl"
    index.write_bytes(index.read_bytes() + b'{"path":"train/good/' + b"a" * 999)
    store.add("tile", "train/good/0.png", draw(0))
    assert len(index.read_bytes()) < 999
    assert paths_of(DatasetStore(root, ImageLimits())) == {"train/good/0.png"}


def test_index_rebuilt_by_another_process_is_read_again(
    store: DatasetStore, root: Path, draw: Draw
) -> None:
    store.create("tile", "")
    for number in (0, 1):
        store.add("tile", f"train/good/{number}.png", draw(number))
    index = root / "tile" / "index.jsonl"
    before = index.read_bytes()
    index.unlink()
    (root / "tile" / "train" / "good" / "0.png").unlink()
    other = DatasetStore(root, ImageLimits())
    other.add("tile", "train/good/2.png", draw(2))
    assert len(index.read_bytes()) == len(before), "the size must not tell them apart"
    assert paths_of(store) == paths_of(other) == {"train/good/1.png", "train/good/2.png"}


@pytest.mark.parametrize("damage", ["missing", "empty", "head", "gap", "garbage", "zeros", "outside"])
def test_damaged_index_is_rebuilt(store: DatasetStore, root: Path, draw: Draw, damage: str) -> None:
    store.create("tile", "")
    for path, number in (("train/good/0.png", 0), ("test/crack/0.png", 1), ("ground_truth/crack/0.png", 2)):
        store.add("tile", path, draw(number))
    before = store.get("tile")
    index = root / "tile" / "index.jsonl"
    head, *lines = index.read_bytes().splitlines(keepends=True)
    match damage:
        case "missing":
            index.unlink()
        case "gap":
            index.write_bytes(head + lines[0] + b"\n" + lines[2])
        case "head":
            index.write_bytes(b"".join(lines))
        case "empty":
            index.write_bytes(b"")
        case "garbage":
            index.write_bytes(head + lines[0] + lines[1][20:] + lines[2])
        case "zeros":
            index.write_bytes(head + lines[0] + b"\0" * len(lines[1]) + b"\n")
        case "outside":
            index.write_bytes(head + lines[0].replace(b"train/good/0.png", b"../../good/0.png") + lines[1])
    (root / "tile" / "train" / "good" / "notes.txt").write_text("not ours")
    reopened = DatasetStore(root, ImageLimits())
    assert reopened.get("tile") == before
    assert store.get("tile") == before  # read by a store that had the old index open
    assert store.add("tile", "train/good/1.png", draw(3))
    assert paths_of(reopened) == {"train/good/0.png", "train/good/1.png", "test/crack/0.png"}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_leaves_no_partial_image(
    store: DatasetStore, root: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch, failing: str, code: int
) -> None:
    store.create("tile", "")
    store.add("tile", "train/good/0.png", draw(0))
    real = getattr(os, failing)
    failures = 0
    for nth in range(1, 20):
        calls = 0

        def full(*args: object, nth: int = nth) -> object:
            nonlocal calls
            calls += 1
            if calls == nth:
                raise OSError(code, os.strerror(code))
            return real(*args)

        path = f"test/crack/{nth}.png"
        with monkeypatch.context() as patched:
            patched.setattr(os, failing, full)
            try:
                DatasetStore(root, ImageLimits()).add("tile", path, draw(nth))
            except DiskFull as error:
                failures += 1
                assert "BLEMISH_STORE" in str(error)
            else:
                assert calls < nth
                break
        for reader in (store, DatasetStore(root, ImageLimits())):
            assert files_of(root / "tile") == paths_of(reader)
        assert not list((root / "tile").rglob(".*.png.*"))
        store.add("tile", path, draw(nth))
    else:
        raise AssertionError("it never succeeded")
    # fsync: two folders above, the staged file, its folder, the index.
    assert failures == {"fsync": 5, "replace": 1}[failing]


def test_failed_index_append_discards_the_files(
    store: DatasetStore, root: Path, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("tile", "")
    real = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if mode == "r+b":
            raise OSError(errno.ENOSPC, "no space")
        return real(path, mode, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", full)
        with pytest.raises(DiskFull):
            store.add("tile", "train/good/0.png", draw(0))
    assert files_of(root / "tile") == paths_of(store) == set()
    assert store.add("tile", "train/good/0.png", draw(0))


def test_full_disk_leaves_no_partial_dataset(
    store: DatasetStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DiskFull):
            store.create("tile", "")
    assert not list(root.iterdir())
    store.create("tile", "")


def test_concurrent_threads_and_stores_lose_no_image(root: Path, draw: Draw) -> None:
    stores = [DatasetStore(root, ImageLimits()) for _ in range(2)]
    stores[0].create("tile", "")
    images = [draw(number) for number in range(60)]

    def upload(number: int) -> bool:
        return stores[number % 2].add("tile", f"train/good/{number}.png", images[number])

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(upload, range(60)))
    for store in (*stores, DatasetStore(root, ImageLimits())):
        assert store.get("tile").train_images == 60
    assert len((root / "tile" / "index.jsonl").read_bytes().splitlines()) == 61


def test_one_of_two_concurrent_contents_under_a_path_is_kept(root: Path, draw: Draw) -> None:
    stores = [DatasetStore(root, ImageLimits()) for _ in range(2)]
    stores[0].create("tile", "")
    images = [draw(number) for number in range(4)]
    for turn in range(15):
        path = f"train/good/{turn}.png"

        def upload(number: int, path: str = path) -> int | None:
            try:
                assert stores[number % 2].add("tile", path, images[number])
            except AlreadyExists:
                return None
            return number

        with ThreadPoolExecutor(4) as pool:
            kept = [number for number in pool.map(upload, range(4)) if number is not None]
        assert len(kept) == 1
        assert stores[1].read_path("tile", path) == images[kept[0]]


def test_concurrent_processes_lose_no_image(root: Path, tmp_path: Path, draw: Draw) -> None:
    DatasetStore(root, ImageLimits()).create("tile", "")
    (tmp_path / "image.png").write_bytes(draw())
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from blemish_core.datasets import DatasetStore\n"
        "from blemish_core.imaging.decode import ImageLimits\n"
        "store = DatasetStore(Path(sys.argv[1]), ImageLimits())\n"
        "for i in range(25):\n"
        "    store.add('tile', f'train/good/{sys.argv[3]}-{i}.png', Path(sys.argv[2]).read_bytes())\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, root, tmp_path / "image.png", str(number)])
        for number in range(3)
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    assert DatasetStore(root, ImageLimits()).get("tile").train_images == 75
