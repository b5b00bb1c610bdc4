# SPDX-License-Identifier: Apache-2.0
"""Frames of a hot folder: images that another program writes while they are being scored."""

import io
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blemish.v1.image_pb2 import Image
from blemish_client.streaming.folders import image_files
from blemish_client.streaming.seen_files import FileIdentity, SeenFiles
from blemish_client.types.frame import Frame

_POLL_S = 0.25
_SETTLE_S = 1.0
"""Time without a change after which a file without a recognised end counts as written."""
_PATIENCE_S = 10.0
"""Time without a change after which a file is sent although it seems incomplete."""

# Last bytes of complete files, by their first bytes.
_ENDS = {b"\x89PNG\r\n\x1a\n": b"IEND\xaeB`\x82", b"\xff\xd8\xff": b"\xff\xd9"}


def identified_files(
    folder: Path, is_image: Callable[[str], bool], exclude: Path | None
) -> Iterator[tuple[Path, FileIdentity]]:
    """Yield the images below a folder with their identities, as ``image_files`` does."""
    for file in image_files(folder, is_image, exclude):
        try:
            identity = FileIdentity.of(folder, file)
        except OSError:
            continue  # it was renamed or removed in the meantime
        if identity is not None:
            yield file, identity


@dataclass
class _Candidate:
    """A file that may still be being written."""

    identity: FileIdentity
    since_s: float
    """Time of its last change on the monotonic clock."""


@dataclass(frozen=True)
class HotFolderTimes:
    """The times of a hot folder, in seconds."""

    poll_s: float = _POLL_S
    settle_s: float = _SETTLE_S
    patience_s: float = _PATIENCE_S


class HotFolder:
    """A folder whose new images become frames, each once."""

    def __init__(
        self,
        folder: Path,
        seen: SeenFiles,
        *,
        is_image: Callable[[str], bool],
        parse: Callable[[Path, bytes], bytes | Image],
        checks_content: bool = True,
        exclude: Path | None = None,
        skip: Callable[[str, str], None] = lambda _name, _reason: None,
        report: Callable[[str], None] = lambda _: None,
        away: Callable[[bool], None] = lambda _: None,
        times: HotFolderTimes | None = None,
    ) -> None:
        """Follow a folder.

        Args:
            folder: folder that other programs write to, with folders below it.
            seen: files that have been scored before.
            is_image: selects files by their names.
            parse: returns the image in the content of a file; raises ValueError if it is none.
            checks_content: True to decode files that have no recognised end, False for dumps of samples.
            exclude: folder below it that is left out.
            skip: called with the name of a file that is not sent, and the reason.
            report: called with a line when the folder cannot be read, and when it can be read again.
            away: called with True when the folder cannot be read, and with False afterwards.
            times: times to wait.
        """
        self._folder = folder
        self._seen = seen
        self._is_image = is_image
        self._parse = parse
        self._checks_content = checks_content
        self._exclude = exclude
        self._skip = skip
        self._report = report
        self._away = away
        self._times = times or HotFolderTimes()
        self._candidates: dict[Path, _Candidate] = {}
        self._in_flight: defaultdict[str, deque[FileIdentity]] = defaultdict(deque)

    def frames(self) -> Iterator[Frame]:
        """Yield a frame for each new file once it is complete, without end."""
        failed_s: float | None = None
        while True:
            try:
                files = self._new_files()
            except OSError as error:
                if failed_s is None:
                    failed_s = time.monotonic()
                    self._report(f"folder unreachable, retrying: {self._folder}: {error.strerror}")
                    self._away(True)
            else:
                if failed_s is not None:
                    away_s = time.monotonic() - failed_s
                    self._report(f"{self._folder} is available again after {away_s:.0f} s")
                    self._away(False)
                    failed_s = None
                for file, identity in files:
                    if (frame := self._frame(file, identity)) is not None:
                        yield frame
            time.sleep(self._times.poll_s)

    def settle(self, names: Iterable[str], *, final: bool = True) -> None:
        """Record that frames were answered. A later start leaves them out if the answer is ``final``."""
        for name in names:
            if identities := self._in_flight.get(name):
                identity = identities.popleft()
                if not identities:
                    del self._in_flight[name]
                if final:
                    self._seen.add(identity)

    def close(self) -> None:
        """Close the memory of scored files."""
        self._seen.close()

    def _new_files(self) -> list[tuple[Path, FileIdentity]]:
        """Return the files that have not been taken, the oldest first."""
        files = identified_files(self._folder, self._is_image, self._exclude)
        found = [(file, identity) for file, identity in files if not self._seen.contains(identity)]
        present = {file for file, _ in found}
        self._candidates = {file: each for file, each in self._candidates.items() if file in present}
        return sorted(found, key=lambda each: (each[1].mtime_ns, each[0]))

    def _frame(self, file: Path, identity: FileIdentity) -> Frame | None:
        """Return the frame of a file, or None if it is incomplete or cannot be read."""
        now_s = time.monotonic()
        candidate = self._candidates.get(file)
        if candidate is None or candidate.identity != identity:
            # The time of its last change may be that of the file it is a copy of.
            candidate = self._candidates[file] = _Candidate(identity, now_s)
        unchanged_s = now_s - candidate.since_s
        is_late = unchanged_s >= self._times.patience_s
        try:
            content = file.read_bytes()
            if FileIdentity.of(self._folder, file) != identity:
                return None  # it changed while it was read
        except FileNotFoundError:
            return None  # it was renamed or removed
        except OSError as error:
            if is_late:
                self._give_up(file, identity, f"cannot be read: {error.strerror}")
            return None
        if not is_late and not self._is_complete(file, content, unchanged_s):
            return None
        try:
            if not content:
                raise ValueError("is empty")
            image = self._parse(file, content)
        except ValueError as error:
            self._give_up(file, identity, str(error))
            return None
        name = str(file)
        self._take(file, identity)
        self._in_flight[name].append(identity)
        return Frame(image, name, capture_time=datetime.fromtimestamp(identity.mtime_ns / 1e9, UTC))

    def _is_complete(self, file: Path, content: bytes, unchanged_s: float) -> bool:
        for start, end in _ENDS.items() if self._checks_content else ():
            if content.startswith(start) and content.endswith(end):
                return True
        if not content or unchanged_s < self._times.settle_s:
            return False
        return not self._checks_content or _is_decodable(file, content)

    def _give_up(self, file: Path, identity: FileIdentity, reason: str) -> None:
        self._take(file, identity)
        self._skip(str(file), reason)

    def _take(self, file: Path, identity: FileIdentity) -> None:
        """Leave a file out from now on, unless it changes."""
        self._candidates.pop(file, None)
        self._seen.take(identity)


def _is_decodable(file: Path, content: bytes) -> bool:
    """Return whether an image is complete, as far as decoding it shows."""
    try:
        if file.suffix.lower() == ".npy":
            import numpy as np

            np.load(io.BytesIO(content), allow_pickle=False)
        else:
            from PIL import Image as PilImage

            with PilImage.open(io.BytesIO(content)) as image:
                image.load()
    except ModuleNotFoundError:
        return True
    except Exception:  # the decoders raise many kinds for a part of a file
        return False
    return True


def default_state_file(folder: Path, model: str) -> Path:
    """Return the file that remembers the files of a folder that a model has scored.

    Args:
        folder: hot folder.
        model: full name of the model or version.
    """
    import hashlib

    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    digest = hashlib.sha256(f"{folder.resolve()}\n{model}".encode(errors="surrogateescape")).hexdigest()
    return Path(home) / "blemish" / "watch" / f"{folder.resolve().name or 'root'}-{digest[:16]}.jsonl"
