# SPDX-License-Identifier: Apache-2.0
import asyncio
import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import structlog
from tests.support.audit import make_entry

from blemish_core.platform.errors import DiskFull, Unavailable
from blemish_server.audit import recorder as recorder_module
from blemish_server.audit.entry import AuditEntry, AuditFilter
from blemish_server.audit.log import AuditLog
from blemish_server.audit.recorder import AuditRecorder


class RecordedLog(AuditLog):
    """A log that counts its appends, and can fail or wait."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.batches: list[int] = []
        self.error: OSError | None = None
        self.open = threading.Event()
        self.open.set()

    def append(self, lines: Sequence[bytes]) -> None:
        self.open.wait(10)
        self.batches.append(len(lines))
        if self.error is not None:
            raise self.error
        super().append(lines)

    def entries(self) -> list[AuditEntry]:
        entries, _ = self.page(AuditFilter(), 5000)
        return entries[::-1]


@pytest.fixture
def log(tmp_path: Path) -> RecordedLog:
    return RecordedLog(tmp_path)


async def test_written_entry_is_in_the_log(log: RecordedLog) -> None:
    recorder = AuditRecorder(log)
    await recorder.write(make_entry("1"))
    assert log.entries() == [make_entry("1")]
    await recorder.close()


async def test_entries_that_wait_together_share_a_flush(log: RecordedLog) -> None:
    recorder = AuditRecorder(log)
    log.open.clear()
    writes = [asyncio.create_task(recorder.write(make_entry(str(number)))) for number in range(50)]
    await asyncio.sleep(0.05)  # the event loop runs while the thread waits
    log.open.set()
    await asyncio.gather(*writes)
    assert len(log.batches) <= 2
    assert len(log.entries()) == 50
    await recorder.close()


async def test_full_disk_and_other_failures_are_raised_and_end(log: RecordedLog) -> None:
    recorder = AuditRecorder(log)
    log.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskFull):
        await recorder.write(make_entry("1"))
    log.error = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(Unavailable, match="cannot be written: Permission denied; changes are rejected"):
        await recorder.write(make_entry("2"))
    log.error = None
    await recorder.write(make_entry("3"))
    assert [entry.id for entry in log.entries()] == ["3"]
    await recorder.close()


async def test_entry_that_cannot_be_written_goes_to_the_servers_log(log: RecordedLog) -> None:
    lost: list[None] = []
    recorder = AuditRecorder(log, lambda: lost.append(None))
    log.error = PermissionError(errno.EACCES, "Permission denied")
    with structlog.testing.capture_logs() as logged:
        await recorder.write_or_report(make_entry("1"))
    assert len(lost) == 1
    assert logged[0]["event"] == "audit entry not written"
    assert logged[0]["entry"]["caller"] == "line-office"
    await recorder.close()


async def test_cancelled_write_still_writes(log: RecordedLog) -> None:
    recorder = AuditRecorder(log)
    log.open.clear()
    write = asyncio.create_task(recorder.write(make_entry("1")))
    await asyncio.sleep(0.02)
    write.cancel()
    log.open.set()
    await recorder.close()
    assert [entry.id for entry in log.entries()] == ["1"]


async def test_flood_of_equal_denials_is_counted_in_one_entry(log: RecordedLog) -> None:
    recorder = AuditRecorder(log)
    for number in range(5000):
        recorder.write_denial(make_entry(str(number), code=7))
    recorder.write_denial(make_entry("other", caller="mes", code=7))
    await recorder.close()
    entries = log.entries()
    assert len(entries) == 12
    assert {entry.suppressed for entry in entries if entry.caller == "mes"} == {0}
    assert sum(entry.suppressed or 1 for entry in entries if entry.caller == "line-office") == 5000


async def test_count_of_denials_is_written_after_the_window(
    log: RecordedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "_WINDOW_S", 0.05)
    recorder = AuditRecorder(log)
    for number in range(12):
        recorder.write_denial(make_entry(str(number), code=7))
    await asyncio.sleep(0.2)
    assert [entry.suppressed for entry in log.entries()] == [0] * 10 + [2]
    recorder.write_denial(make_entry("later", code=7))
    await recorder.close()
    assert log.entries()[-1].id == "later"


async def test_denials_of_many_addresses_are_bounded(log: RecordedLog) -> None:
    recorder = AuditRecorder(log)
    log.open.clear()
    for number in range(3000):
        recorder.write_denial(
            make_entry(str(number), caller=f"10.0.{number // 256}.{number % 256}", code=16)
        )
    log.open.set()
    await recorder.close()
    entries = log.entries()
    assert len(entries) <= 1011
    assert sum(entry.suppressed or 1 for entry in entries) == 3000
