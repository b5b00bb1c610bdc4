# SPDX-License-Identifier: Apache-2.0
"""Files of anomalous frames of a stream: a picture, and the whole answer as JSON."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore
from types import TracebackType
from typing import Self

from blemish.v1.image_pb2 import VERDICT_ANOMALOUS, Verdict
from blemish_client.cli.choices import spell
from blemish_client.cli.commands.score import draw
from blemish_client.cli.failures import Failure
from blemish_client.cli.file_names import file_name_part, file_time
from blemish_client.cli.new_files import create_files, numbered_names
from blemish_client.cli.output import frame_fields
from blemish_client.streaming.ledger import FrameResult, LostFrames

_MAX_QUEUED = 64


@dataclass(frozen=True)
class EvidenceFiles:
    """Two files of one frame, which this process has created."""

    picture: Path
    answer: Path

    @classmethod
    def create(cls, folder: Path, result: FrameResult) -> Self:
        """Create empty files that nothing has used before, also if other processes write to the folder.

        Raises:
            OSError: if they cannot be created.
        """
        for name in numbered_names(file_stem(result)):
            files = cls(folder / f"{name}.png", folder / f"{name}.json")
            with suppress(FileExistsError):
                create_files({files.answer: b"", files.picture: b""})
                return files
        raise AssertionError("numbered_names ends with an error")

    def remove_empty(self) -> None:
        """Remove the files to which nothing was written."""
        for file in (self.picture, self.answer):
            if file.exists() and not file.stat().st_size:
                file.unlink()


def file_stem(result: FrameResult) -> str:
    """Return camera, time in UTC, sequence number, verdict and item of an inspected frame."""
    inspection = result.answer.inspection
    parts = [
        file_name_part(result.camera, "camera"),
        file_time(result.capture_time),
        f"{result.sequence:08}",
        spell(Verdict, inspection.verdict),
    ]
    if inspection.item:
        parts.append(inspection.item.removeprefix("items/"))
    return "_".join(parts)


class EvidenceWriter:
    """A thread that writes anomalous frames to a folder. Nothing in the folder is ever overwritten."""

    def __init__(
        self,
        folder: Path | None,
        *,
        wait: bool,
        max_queued: int = _MAX_QUEUED,
        draw_map: Callable[..., None] = draw,
    ) -> None:
        """Create the folder and start the thread.

        Args:
            folder: folder for the files, or None to write nothing.
            wait: wait for a full queue instead of writing frames without their picture.
            max_queued: number of frames that wait to be drawn.
            draw_map: function that draws a frame, with the parameters of ``draw``.

        Raises:
            Failure: if the folder cannot be created.
        """
        self._folder = folder
        self._wait = wait
        self._room = BoundedSemaphore(max_queued)
        self._draw_map = draw_map
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drawing")
        self._failure: Exception | None = None
        self.skipped = 0
        """Frames that were written without a picture, because drawing was too slow."""
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Failure(f"cannot write {folder}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if kind is None:
            self._raise_failure()

    def add(self, result: FrameResult | LostFrames) -> None:
        """Schedule the writing of a frame if it is anomalous.

        Raises:
            Failure: if an earlier frame could not be written.
        """
        self._raise_failure()
        if self._folder is None or not isinstance(result, FrameResult):
            return
        if result.inspection is None or result.inspection.verdict != VERDICT_ANOMALOUS:
            return
        if self._room.acquire(blocking=self._wait):
            self._thread.submit(self._write_queued, result, self._folder)
        else:
            self.skipped += 1
            self._write(result, self._folder, drawn=False)
            self._raise_failure()

    def _write_queued(self, result: FrameResult, folder: Path) -> None:
        try:
            self._write(result, folder, drawn=True)
        finally:
            self._room.release()

    def _write(self, result: FrameResult, folder: Path, *, drawn: bool) -> None:
        try:
            files = EvidenceFiles.create(folder, result)
            try:
                fields = {"picture": files.picture.name if drawn else None, **frame_fields(result)}
                files.answer.write_text(json.dumps(fields, indent=1) + "\n", "utf-8")
                if drawn:
                    # The default compression level would double the time.
                    self._draw_map(result.sent, result.answer.inspection, files.picture, compress_level=1)
            finally:
                files.remove_empty()
        except OSError as error:
            self._failure = Failure(f"cannot write {folder}: {error.strerror or error}")
        except Exception as error:
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
