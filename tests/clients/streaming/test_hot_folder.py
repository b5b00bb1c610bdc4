# SPDX-License-Identifier: Apache-2.0
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.support.fake_server import picture

from blemish_client.streaming.folders import IMAGE_SUFFIXES, has_suffix
from blemish_client.streaming.hot_folder import HotFolder, HotFolderTimes, default_state_file
from blemish_client.streaming.seen_files import FileIdentity, SeenFiles

QUICK = HotFolderTimes(poll_s=0.01, settle_s=0.1, patience_s=0.4)


class Watched:
    """A hot folder whose frames a thread collects and answers."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.seen = SeenFiles(state)
        self.skipped: list[tuple[str, str]] = []
        self.reports: list[str] = []
        self.away: list[bool] = []
        self.frames: list[tuple[str, object]] = []
        self._hot = HotFolder(
            folder,
            self.seen,
            is_image=has_suffix(IMAGE_SUFFIXES),
            parse=lambda _, content: content,
            exclude=folder / "found",
            skip=lambda name, reason: self.skipped.append((Path(name).name, reason)),
            report=self.reports.append,
            away=self.away.append,
            times=QUICK,
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        for frame in self._hot.frames():
            if self._ended.is_set():
                return
            self.frames.append((Path(frame.name).name, frame.image))
            self._hot.settle([frame.name])

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.frames]

    def until(self, condition: Callable[[], bool]) -> None:
        end_s = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end_s, (self.names, self.skipped, self.reports)
            time.sleep(0.01)

    def close(self) -> None:
        self._ended.set()
        self.seen.close()


@pytest.fixture
def hot(tmp_path: Path) -> Path:
    folder = tmp_path / "hot"
    folder.mkdir()
    return folder


@pytest.fixture
def watch(hot: Path, tmp_path: Path) -> Iterator[Callable[[], Watched]]:
    watches: list[Watched] = []

    def start() -> Watched:
        watches.append(Watched(hot, tmp_path / "state.jsonl"))
        return watches[-1]

    yield start
    for each in watches:
        each.close()


def wait_longer_than_a_file() -> None:
    """Wait for longer than a poll and the time after which files are sent."""
    time.sleep(0.6)


def test_half_written_file_is_sent_once_it_is_complete(watch: Callable[[], Watched], hot: Path) -> None:
    content = picture(64)
    watched = watch()
    with (hot / "a.png").open("wb") as file:
        file.write(content[:100])
        file.flush()
        time.sleep(0.25)
        assert watched.frames == []
        file.write(content[100:])
    watched.until(lambda: len(watched.frames) == 1)
    wait_longer_than_a_file()
    assert watched.frames == [("a.png", content)]


def test_format_without_a_recognised_end_is_decoded(watch: Callable[[], Watched], hot: Path) -> None:
    out = io.BytesIO()
    Image.new("L", (40, 40), 7).save(out, "TIFF")
    watched = watch()
    (hot / "a.tif").write_bytes(out.getvalue()[:500])
    time.sleep(0.25)
    assert watched.frames == []
    (hot / "a.tif").write_bytes(out.getvalue())
    watched.until(lambda: watched.frames == [("a.tif", out.getvalue())])


def test_file_that_stays_incomplete_is_sent_and_an_empty_one_is_skipped(
    watch: Callable[[], Watched], hot: Path
) -> None:
    (hot / "empty.png").touch()
    (hot / "notes.png").write_bytes(b"not an image")
    watched = watch()
    watched.until(lambda: bool(watched.frames and watched.skipped))
    wait_longer_than_a_file()
    assert watched.names == ["notes.png"]
    assert watched.skipped == [("empty.png", "is empty")]
    (hot / "empty.png").write_bytes(picture(16))
    watched.until(lambda: watched.names == ["notes.png", "empty.png"])


def test_renamed_file_is_sent_once_and_a_new_content_again(watch: Callable[[], Watched], hot: Path) -> None:
    watched = watch()
    (hot / ".a.png.tmp").write_bytes(picture(16))
    wait_longer_than_a_file()
    assert watched.names == []
    (hot / ".a.png.tmp").rename(hot / "a.png")
    watched.until(lambda: watched.names == ["a.png"])
    (hot / "done").mkdir()
    (hot / "a.png").rename(hot / "done/b.png")
    wait_longer_than_a_file()
    assert watched.names == ["a.png"]
    (hot / "done/b.png").write_bytes(picture(32))
    watched.until(lambda: watched.names == ["a.png", "b.png"])


def test_scored_files_are_remembered_over_restarts(watch: Callable[[], Watched], hot: Path) -> None:
    (hot / "a.png").write_bytes(picture(16))
    first = watch()
    first.until(lambda: first.names == ["a.png"] and len(first.seen) == 1)
    first.close()
    (hot / "a.png").rename(hot / "renamed.png")
    (hot / "b.png").write_bytes(picture(16))
    second = watch()
    second.until(lambda: second.names == ["b.png"])
    wait_longer_than_a_file()
    assert second.names == ["b.png"]


def test_file_without_an_answer_is_sent_after_a_restart(hot: Path, tmp_path: Path) -> None:
    (hot / "a.png").write_bytes(picture(16))
    for _ in range(2):
        seen = SeenFiles(tmp_path / "state")
        followed = HotFolder(
            hot, seen, is_image=has_suffix(IMAGE_SUFFIXES), parse=lambda _, content: content, times=QUICK
        )
        frame = next(followed.frames())
        assert frame.name == str(hot / "a.png")
        assert frame.capture_time is not None
        assert frame.capture_time.timestamp() == pytest.approx((hot / "a.png").stat().st_mtime)
        followed.settle([frame.name], final=False)
        seen.close()


def test_masks_and_the_excluded_folder_are_left_alone(watch: Callable[[], Watched], hot: Path) -> None:
    for name in ("ground_truth/crack/000_mask.png", "found/000.png", "test/crack/000.png", "a.txt"):
        (hot / name).parent.mkdir(parents=True, exist_ok=True)
        (hot / name).write_bytes(picture(16))
    watched = watch()
    watched.until(lambda: watched.names == ["000.png"])
    wait_longer_than_a_file()
    assert watched.names == ["000.png"]


def test_folder_that_disappears_is_awaited(watch: Callable[[], Watched], hot: Path) -> None:
    watched = watch()
    hot.rmdir()
    watched.until(lambda: watched.away == [True])
    hot.mkdir()
    (hot / "a.png").write_bytes(picture(16))
    watched.until(lambda: watched.names == ["a.png"])
    assert watched.away == [True, False]
    assert "folder unreachable, retrying" in watched.reports[0]
    assert "is available again after" in watched.reports[1]


def test_oldest_file_is_sent_first(watch: Callable[[], Watched], hot: Path) -> None:
    for number, name in enumerate(("c.png", "a.png", "b.png")):
        (hot / name).write_bytes(picture(16))
        os.utime(hot / name, (1000 + number, 1000 + number))
    watched = watch()
    watched.until(lambda: watched.names == ["c.png", "a.png", "b.png"])


def test_torn_last_line_of_the_state_is_ignored(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text('["a.png", 1, 2, 3]\n["b.png", 4')
    seen = SeenFiles(state)
    assert len(seen) == 1
    seen.add(FileIdentity("c.png", 5, 6, 7))
    seen.close()
    again = SeenFiles(state)
    assert len(again) == 2
    again.close()


def test_entries_of_many_missing_files_are_forgotten(tmp_path: Path) -> None:
    state = tmp_path / "state"
    entries = [f'["{number}.png", {number + 1}, 2, 3]\n' for number in range(10_002)]
    state.write_text("".join(entries))
    seen = SeenFiles(state)
    present = FileIdentity("5.png", 6, 2, 3)
    seen.forget_missing([present])
    seen.add(FileIdentity("new.png", 70_000, 6, 7))
    seen.close()
    again = SeenFiles(state)
    assert len(again) == 2
    assert again.contains(present)
    again.close()


def test_state_file_depends_on_folder_and_model(hot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    file = default_state_file(hot, "models/m")
    assert file.parent == Path("/state/blemish/watch")
    assert file == default_state_file(hot / ".." / "hot", "models/m")
    assert file != default_state_file(hot, "models/n")


def test_state_file_belongs_to_one_process(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = SeenFiles(state)
    with pytest.raises(OSError, match="another process uses it"):
        SeenFiles(state)
    first.close()
    SeenFiles(state).close()
