# SPDX-License-Identifier: Apache-2.0
"""Writes entries to the audit log without blocking the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from blemish_core.platform.errors import DiskFull, Unavailable
from blemish_core.platform.files import disk_full_errors
from blemish_core.platform.locks import LockHeld
from blemish_server.audit.entry import AuditEntry
from blemish_server.audit.log import AuditLog

_WINDOW_S = 60.0
_MAX_EQUAL = 10
# Bounds the memory and the entries that callers with many addresses cause.
_MAX_WINDOWS = 1000
_MAX_DENIALS_WAITING = 1000
_OTHERS = ("", "", 0)

log = structlog.get_logger(__name__)


class AuditRecorder:
    """Writes the entries of one server. Entries that wait together share one flush to disk."""

    def __init__(self, audit_log: AuditLog, on_lost: Callable[[], None] = lambda: None) -> None:
        """Write to a log.

        Args:
            audit_log: the log.
            on_lost: called for each entry that could not be written.
        """
        self._log = audit_log
        self._on_lost = on_lost
        # Its own thread, because scoring may take all others.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._denials: dict[tuple[str, str, int], _Window] = {}

    async def write(self, entry: AuditEntry) -> None:
        """Write an entry. It is on disk when this returns.

        Raises:
            DiskFull: if there is no space for it.
            Unavailable: if it cannot be written for another reason.
        """
        await asyncio.shield(self._enqueue(entry))

    async def write_or_report(self, entry: AuditEntry) -> None:
        """Write an entry. If that fails, put it into the server's log."""
        try:
            await self.write(entry)
        except (DiskFull, Unavailable) as error:
            self._report(entry, error)

    def write_denial(self, entry: AuditEntry) -> None:
        """Write the entry of a denied call in the background.

        The first of many equal calls within a minute get an entry each; one entry counts the others.
        """
        key = (entry.caller, entry.action, entry.code)
        window = self._denials.get(key)
        if window is None:
            if len(self._denials) >= _MAX_WINDOWS:
                key = _OTHERS
            window = self._denials.setdefault(key, _Window())
            if window.expiry is None:
                loop = asyncio.get_running_loop()
                window.expiry = loop.call_later(_WINDOW_S, self._close_window, key)
        window.count += 1
        window.last = entry
        if window.count <= _MAX_EQUAL and len(self._waiting) < _MAX_DENIALS_WAITING:
            self._write_in_background(entry)
        else:
            window.suppressed += 1

    async def close(self) -> None:
        """Write all entries, and the counts of denied calls."""
        for key, window in list(self._denials.items()):
            if window.expiry is not None:
                window.expiry.cancel()
            self._close_window(key)
        while self._writer is not None:
            await asyncio.wait({self._writer})
        await asyncio.to_thread(self._thread.shutdown)

    def _close_window(self, key: tuple[str, str, int]) -> None:
        window = self._denials.pop(key)
        if window.suppressed and window.last is not None:
            self._write_in_background(window.last.model_copy(update={"suppressed": window.suppressed}))

    def _write_in_background(self, entry: AuditEntry) -> None:
        def written(future: "asyncio.Future[None]") -> None:
            if not future.cancelled() and (error := future.exception()) is not None:
                self._report(entry, error)

        self._enqueue(entry).add_done_callback(written)

    def _enqueue(self, entry: AuditEntry) -> "asyncio.Future[None]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        # The call that waits for it may be cancelled.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting.append((entry.to_line(), future))
        if self._writer is None:
            self._writer = loop.create_task(self._write_waiting())
        return future

    async def _write_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failure: Exception | None = None
            try:
                await loop.run_in_executor(self._thread, self._append, [line for line, _ in batch])
            except Exception as error:
                failure = error
            for _, future in batch:
                if future.cancelled():
                    continue
                if failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(failure)
        self._writer = None

    def _append(self, lines: list[bytes]) -> None:
        try:
            with disk_full_errors(self._log.folder):
                self._log.append(lines)
        except (OSError, LockHeld) as error:
            cause = error.strerror if isinstance(error, OSError) else str(error)
            raise Unavailable(
                f"the audit log in {self._log.folder} cannot be written: {cause}; changes are rejected "
                "until it can be written again",
                dependency="audit log",
            ) from error

    def _report(self, entry: AuditEntry, error: BaseException) -> None:
        self._on_lost()
        log.error("audit entry not written", cause=str(error), entry=entry.model_dump(mode="json"))


@dataclass
class _Window:
    """Equal denied calls within a minute."""

    count: int = 0
    suppressed: int = 0
    last: AuditEntry | None = None
    expiry: asyncio.TimerHandle | None = None
