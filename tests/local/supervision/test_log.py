# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from blemish_local.supervision.log import ROTATE_BYTES, ServiceLog


def test_tail_contains_only_lines_of_the_run(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path / "logs" / "service.log")
    output, _ = log.open_for_run()
    with output:
        output.write(b"of the first run\n")

    output, begin = log.open_for_run()
    with output:
        output.write(b"".join(b"line %d\n" % number for number in range(20)))
        output.write(b"\nnot UTF-8: \xff")

    assert log.tail(begin, lines=3) == [
        "line 18",
        "line 19",
        "not UTF-8: \N{REPLACEMENT CHARACTER}",
    ]
    assert "of the first run" not in log.tail(begin, lines=100)
    assert "of the first run" in log.tail(0, lines=100)


def test_tail_of_a_long_line_is_bounded(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path / "service.log")
    output, begin = log.open_for_run()
    with output:
        output.write(b"x" * 1_000_000)

    assert sum(map(len, log.tail(begin))) < 100_000


def test_large_log_is_rotated_at_a_start(tmp_path: Path) -> None:
    log = ServiceLog(tmp_path / "service.log")
    log.path.write_bytes(b"old\n" * (ROTATE_BYTES // 4 + 1))

    output, begin = log.open_for_run()
    output.close()

    assert log.path.stat().st_size == begin < 100
    assert (tmp_path / "service.log.1").stat().st_size > ROTATE_BYTES


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_service_runs_without_its_log_on_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "service.log").symlink_to("/dev/full")
    log = ServiceLog(tmp_path / "service.log")

    output, _ = log.open_for_run()

    output.close()
    assert output.closed
